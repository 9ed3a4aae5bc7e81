"""The way of the data on the unprivileged side: ring -> records -> exchanges -> sampler -> spans, and measurements of all.

In:   Inputs (the kernel's shared memory, clocks), frames of the probe
Out:  lines to the printer, encoded spans to the queue, measurements to the meters
Owns: the assembler, the services, and the ledger of what became of every request

One `tick` is one pass over what has come; it never waits for the network.
"""

from typing import Protocol

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.exchanges.ledger import NOT_SAMPLED, UNKNOWN_SERVICE, Ledger
from otel_ebpf.export.console import Console
from otel_ebpf.export.inputs import Inputs
from otel_ebpf.export.ledger_readings import LedgerReadings
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.otlp import SpanEncoder
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.services import Ended, Service, Services
from otel_ebpf.export.snapshots import Snapshot
from otel_ebpf.records.decode import Buffer, DecodeError, decode_record
from otel_ebpf.records.frames import Frame, Hooks, LedgerClosed, ServiceGone, Shutdown
from otel_ebpf.records.kinds import Counter, CounterReading, Hidden, Kind, LedgerReading
from otel_ebpf.telemetry.evidence import evidence_of
from otel_ebpf.telemetry.metrics import Meter
from otel_ebpf.telemetry.outcome import Decided, OutcomeSampler, with_weight
from otel_ebpf.telemetry.places import SpanPlace
from otel_ebpf.telemetry.sampling import Sampler
from otel_ebpf.telemetry.spans import SpanBuilder

_HOLD_NS = 1_000_000_000  # for the identity of a service that is already being watched
_OWN_USER_AGENT = b"OTel-OTLP-Exporter-Python/"  # what the official exporter sends
_MAX_HELD = 10_000
_MAX_HELD_BYTES = 16 << 20  # of their heads
_CLOCK_EVERY_NS = 10_000_000_000


class SpanSink(Protocol):
    """The sender, as far as the pipeline needs it."""

    def put(self, resource: bytes, spans: list[bytes]) -> None: ...


class Pipeline:
    def __init__(
        self,
        inputs: Inputs,
        services: Services,
        builder: SpanBuilder,
        sample: Sampler,
        printer: Console | None,
        sink: SpanSink | None,
        measuring: Measuring | None = None,
        outcomes: OutcomeSampler[Ended] | None = None,
    ) -> None:
        self.ledger = Ledger()
        self.assembler = Assembler(ledger=self.ledger)
        self.counters = CounterReading((0,) * len(Counter))
        self.hooks = Hooks("")
        self.records_by_kind = [0] * (1 + max(Kind))
        self.hidden: dict[int, dict[str, tuple[int, ...]]] = {}  # by service_pid, until its account is closed
        self.inputs = inputs
        self.services = services
        self._builder = builder
        self._sample = sample
        self._encoder = SpanEncoder()
        self._printer = printer
        self._sink = sink
        self._wants_evidence = builder.shows_evidence or (printer is not None and printer.wants_evidence)
        self.measuring = measuring
        self._ledger_readings: LedgerReadings | None = None
        if measuring is not None:
            self._ledger_readings = LedgerReadings(self.ledger, services, measuring.ttl_ns)
        self.outcomes = outcomes
        self._done: list[Exchange] = []
        self._held: list[tuple[int, Exchange]] = []
        self._held_bytes = 0
        self._encoded: dict[bytes, list[bytes]] = {}  # of this tick, by resource
        self._offset_ns = 0
        self._clock_at_ns = -_CLOCK_EVERY_NS

    def take_frame(self, frame: Frame) -> None:
        now_ns = self.inputs.accept(frame)
        if isinstance(frame, CounterReading):
            self.counters = frame
        elif isinstance(frame, LedgerReading):
            for row in frame.rows:
                self.ledger.read(row)
        elif isinstance(frame, LedgerClosed):
            if self.measuring is not None and self._ledger_readings is not None:
                self._ledger_readings.close(frame.service_pid, self.measuring.now_unix_ns)
            self.ledger.close(frame.service_pid)
            self.hidden.pop(frame.service_pid, None)
        elif isinstance(frame, Hidden):
            self.hidden[frame.service_pid] = frame.found
        elif isinstance(frame, Hooks):
            self.hooks = frame
        elif isinstance(frame, ServiceGone):
            self.services.say_goodbye(frame.service_pid, now_ns)
        elif not isinstance(frame, Shutdown):
            self.services.learn(frame)

    def open_by_service(self) -> dict[int, tuple[int, int]]:
        """Requests without a span yet, and those pipelined so far; see Assembler.open_by_service."""
        found = self.assembler.open_by_service()
        waiting = self.outcomes.waiting if self.outcomes is not None else []
        for exchange in [exchange for _, exchange in self._held] + [ended.exchange for ended in waiting]:
            unreported, pipelined = found.get(exchange.service_pid, (0, 0))
            found[exchange.service_pid] = (unreported + 1, pipelined)
        return found

    @property
    def records(self) -> int:
        return sum(self.records_by_kind)

    @property
    def produced(self) -> int:
        """To be read before the frames are, and given to `tick`: what a record names was told before."""
        return self.inputs.produced

    def tick(self, until: int) -> int:
        """One pass; returns how many records there were."""
        now_ns = self.inputs.begin_tick()
        if now_ns - self._clock_at_ns >= _CLOCK_EVERY_NS:
            self._clock_at_ns = now_ns
            self._offset_ns = self.inputs.clock_offset_ns()
            self.services.forget_gone(now_ns)
        if self.measuring is not None:
            self.measuring.begin_tick(now_ns, self._offset_ns)
        record_count = self.inputs.drain(self._take_record, until)
        self._done += self.assembler.watch(self.inputs.read_progress, now_ns)
        done, self._done = self._done, []
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            for held_since_ns, exchange in held:
                self._send(exchange, held_since_ns, now_ns)
        if done:
            self._send_all(done, now_ns)
        if self.outcomes is not None:
            self._settle(self.outcomes.expire(now_ns))
        self._put_encoded()
        if self._printer is not None:
            self._printer.flush(now_ns / 1e9)
        return record_count

    def snapshot(self, meter: Meter) -> Snapshot:
        """What has been measured, for other threads; to be called between two passes."""
        measuring, readings = self.measuring, self._ledger_readings
        assert measuring is not None
        assert readings is not None
        still_open = self.open_by_service()
        return Snapshot(
            measuring.now_unix_ns,
            measuring.offset_ns,
            meter.read(),
            measuring.count_active(self.assembler.open_requests, self._service_of),
            readings.read(still_open, measuring.now_unix_ns),
            readings.of_host(still_open, self.counters.values),
        )

    def finish(self) -> None:
        """After the last pass: nothing is held back any more, what is still open is counted."""
        now_ns = self.inputs.finish()
        held, self._held = self._held, []
        for _, exchange in held:
            self._send_as(self.services.unknown(), exchange, now_ns)
        if self.outcomes is not None:
            self._settle(self.outcomes.end())
        self._put_encoded()
        self.assembler.end_all(self.inputs.read_progress)
        if self._printer is not None:
            self._printer.flush(now_ns / 1e9, is_last=True)

    def _put_encoded(self) -> None:
        if self._sink is not None and self._encoded:
            for resource, spans in self._encoded.items():
                self._sink.put(resource, spans)
            self._encoded.clear()

    def _take_record(self, data: Buffer, offset: int, length: int) -> None:
        try:
            record = decode_record(data, offset, length)
            self.records_by_kind[record.kind] += 1
            done = self.assembler.feed(record)
        except DecodeError:
            self.ledger.of(UNKNOWN_SERVICE).tally["undecodable record"] += 1
            return
        if done:
            self._done += done

    def _send_all(self, done: list[Exchange], now_ns: int) -> None:
        own = self.inputs.own_endpoints()
        find = self.services.find
        for exchange in done:
            if own and exchange.method == b"POST" and _is_own_export(exchange, own):
                self.ledger.of(exchange.service_pid).tally["the agent's own"] += 1
                continue
            service = find(exchange.service_pid)
            if service is None:
                self._send(exchange, now_ns, now_ns)
            else:
                self._send_as(service, exchange, now_ns)

    def _send(self, exchange: Exchange, held_since_ns: int, now_ns: int) -> None:
        service = self.services.find(exchange.service_pid)
        if service is None:
            has_room = len(self._held) < _MAX_HELD and self._held_bytes < _MAX_HELD_BYTES
            if now_ns - held_since_ns < _HOLD_NS and has_room:
                self._held.append((held_since_ns, exchange))
                self._held_bytes += (
                    len(exchange.target) + len(exchange.request_headers) + len(exchange.response_headers)
                )
                return
            service = self.services.unknown()
        self._send_as(service, exchange, now_ns)

    def _service_of(self, service_pid: int) -> Service:
        return self.services.find(service_pid) or self.services.unknown()

    def _send_as(self, service: Service, exchange: Exchange, now_ns: int) -> None:
        """Measures all, and makes spans of what is kept."""
        route = service.routes.route_of(exchange)
        place = self._sample(exchange)
        if self.outcomes is None or place is None:
            if self.measuring is not None:
                self._measure(service, exchange, route, place)
            if place is None:
                self.ledger.of(exchange.service_pid).tally[NOT_SAMPLED] += 1
            else:
                self._emit(service, exchange, route, place)
            return
        ended = Ended(service, exchange, route, place)
        decided = self.outcomes.offer(ended, exchange, place, service.name, route, now_ns)
        is_kept = bool(decided) and decided[-1].item is ended and decided[-1].threshold is not None
        self._measure(service, exchange, route, place if is_kept else None)
        self._settle(decided)

    def _settle(self, decided: list[Decided[Ended]]) -> None:
        for (service, exchange, route, place), threshold in decided:
            if threshold is None:
                self.ledger.of(exchange.service_pid).tally[NOT_SAMPLED] += 1
            else:
                self._emit(service, exchange, route, with_weight(place, threshold))

    def _measure(self, service: Service, exchange: Exchange, route: bytes | None, kept: SpanPlace | None) -> None:
        """`kept`: where its span belongs, when it is known that there is to be one; exemplars name no others."""
        if self.measuring is not None:
            ids = None if kept is None or self._sink is None else kept[:2]
            self.measuring.record(service, exchange, route, ids)

    def _emit(self, service: Service, exchange: Exchange, route: bytes | None, place: SpanPlace) -> None:
        self.ledger.of(exchange.service_pid).spans += 1
        evidence = evidence_of(exchange, route, service.routes) if self._wants_evidence else ()
        span = self._builder.build(exchange, place, self._offset_ns, route, evidence)
        if self._printer is not None:
            self._printer.add(exchange, span, service.name)
        if self._sink is not None:
            self._encoded.setdefault(service.resource, []).append(self._encoder.encode_span(span))


def _is_own_export(exchange: Exchange, own: frozenset[Endpoint]) -> bool:
    """A request of this agent, as a watched collector got it.

    The address alone does not tell: a port that was the agent's a moment ago may be another client's now.
    """
    return (
        exchange.role is Role.SERVER
        and (exchange.remote_address, exchange.remote_port) in own
        and exchange.method == b"POST"
        and (exchange.user_agent or b"").startswith(_OWN_USER_AGENT)
    )
