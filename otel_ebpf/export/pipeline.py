"""The way of the data on the unprivileged side: ring -> records -> exchanges -> sampler -> spans, and measurements of all.

In:   Inputs (the kernel's shared memory, clocks), frames of the probe
Out:  lines to the printer, encoded spans to the queue, measurements to the meters
Owns: the assembler, the services, and the ledger of what became of every request

One `tick` is one pass over what has come; it never waits for the network.
"""

from typing import Protocol

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Inferred, Role
from otel_ebpf.exchanges.kinship import Parents
from otel_ebpf.exchanges.ledger import NOT_SAMPLED, UNKNOWN_SERVICE, Ledger
from otel_ebpf.exchanges.lookups import Lookups
from otel_ebpf.export.awaiting import Awaiting
from otel_ebpf.export.console import Console
from otel_ebpf.export.inputs import Inputs
from otel_ebpf.export.ledger_readings import LedgerReadings
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.otlp import SpanEncoder
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.services import Ended, Service, Services
from otel_ebpf.export.snapshots import Snapshot
from otel_ebpf.records.decode import Buffer, DecodeError, decode_lookup, decode_record, is_lookup
from otel_ebpf.records.frames import Frame, Hooks, LedgerClosed, ServiceGone, Shutdown
from otel_ebpf.records.kinds import Counter, CounterReading, Hidden, Kind, LedgerReading, Lookup, Record
from otel_ebpf.telemetry.evidence import evidence_of
from otel_ebpf.telemetry.lookups import asked_name
from otel_ebpf.telemetry.metrics import Meter
from otel_ebpf.telemetry.outcome import Decided, OutcomeSampler, with_weight
from otel_ebpf.telemetry.places import SpanPlace
from otel_ebpf.telemetry.sampling import Sampler
from otel_ebpf.telemetry.spans import SpanBuilder

_HOLD_NS = 1_000_000_000  # for the identity of a service that is already being watched
_OWN_USER_AGENT = b"OTel-OTLP-Exporter-Python/"  # what the official exporter sends
_MAX_HELD = 10_000
_MAX_HELD_BYTES = 16 << 20  # of their heads
_RECORDS_AT_ONCE = 128  # enough to be quick, few enough that what is made of them stays in the caches
_new_tuple = tuple.__new__
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
        sampler: Sampler,
        printer: Console | None,
        sink: SpanSink | None,
        measuring: Measuring | None = None,
        outcomes: OutcomeSampler[Ended] | None = None,
        parents: Parents = Parents.NORMAL,
    ) -> None:
        self.ledger = Ledger()
        self.lookups = Lookups()
        self.assembler = Assembler(ledger=self.ledger, parents=parents)
        self.counters = CounterReading((0,) * len(Counter))
        self.hooks = Hooks("")
        self.records_by_kind = [0] * (1 + max(Kind))
        self.hidden: dict[int, dict[str, tuple[int, ...]]] = {}  # by service_pid, until its account is closed
        self.inputs = inputs
        self.services = services
        self._builder = builder
        self.sampler = sampler
        self._encoder = SpanEncoder()
        self._printer = printer
        self._sink = sink
        self._wants_evidence = builder.shows_evidence or (printer is not None and printer.wants_evidence)
        self.measuring = measuring
        self._ledger_readings: LedgerReadings | None = None
        if measuring is not None:
            self._ledger_readings = LedgerReadings(self.ledger, services, measuring.ttl_ns)
        self.outcomes = outcomes
        self._records: list[Record] = []
        self._now_ns = 0  # of this pass, and the agent's own ends of connections
        self._own: frozenset[Endpoint] = frozenset()
        self._held: list[tuple[int, Exchange]] = []  # for the name of its service
        self._held_bytes = 0
        self._awaiting = Awaiting()
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
        held = [exchange for _, exchange in self._held]
        for exchange in held + self._awaiting.exchanges + [ended.exchange for ended in waiting]:
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
        self._now_ns, self._own = now_ns, self.inputs.own_endpoints()
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            self._send(held)
        record_count = self.inputs.drain(self._take_record, until)
        self._work_off()
        self._send([(now_ns, exchange) for exchange in self._awaiting.release(now_ns)])
        self._take_exchanges(self.assembler.watch(self.inputs.read_progress, now_ns))
        if self.outcomes is not None:
            self._emit(self._settled(self.outcomes.expire(now_ns)))
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
        held, self._held = [exchange for _, exchange in self._held] + self._awaiting.end(), []
        self._now_ns = now_ns
        self._send_as([(self._service_of(exchange.service_pid), exchange) for exchange in held])
        if self.outcomes is not None:
            self._emit(self._settled(self.outcomes.end()))
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
            if is_lookup(data, offset, length):
                self.lookups.add(decode_lookup(data, offset, length))
                return
            record = decode_record(data, offset, length)
        except DecodeError:
            self.ledger.of(UNKNOWN_SERVICE).tally["undecodable record"] += 1
            return
        self.records_by_kind[record.kind] += 1
        self._records.append(record)
        if len(self._records) >= _RECORDS_AT_ONCE:
            self._work_off()

    def _work_off(self) -> None:
        """The records that were taken go through stage after stage together: what is done many times in a row is in the
        processor's caches, so it takes less than if each exchange went all the way by itself."""
        records, self._records = self._records, []
        self._take_exchanges(self.assembler.feed_all(records))

    def _take_exchanges(self, done: list[Exchange]) -> None:
        own, now_ns = self._own, self._now_ns
        found: list[tuple[int, Exchange]] = []
        for exchange in done:
            if own and exchange.method == b"POST" and _is_own_export(exchange, own):
                self.ledger.of(exchange.service_pid).tally["the agent's own"] += 1
                continue
            lookup = self.lookups.find(exchange)
            if lookup is not None:
                _join(exchange, lookup)
            if exchange.kin is None or not self._awaiting.takes(exchange, now_ns):
                found.append((now_ns, exchange))
        self._send(found)

    def _send(self, found: list[tuple[int, Exchange]]) -> None:
        """Each with the time since when it is held for want of its service's name."""
        find = self.services.find
        ready: list[tuple[Service, Exchange]] = []
        for held in found:
            exchange = held[1]
            service = find(exchange.service_pid)
            if service is None:
                if self._hold(held):
                    continue
                service = self.services.unknown()
            ready.append((service, exchange))
        self._send_as(ready)

    def _hold(self, held: tuple[int, Exchange]) -> bool:
        """False when that has lasted long enough, or there is no room."""
        since_ns, exchange = held
        if self._now_ns - since_ns >= _HOLD_NS or len(self._held) >= _MAX_HELD or self._held_bytes >= _MAX_HELD_BYTES:
            return False
        self._held.append(held)
        self._held_bytes += exchange.kept_bytes
        return True

    def _service_of(self, service_pid: int) -> Service:
        return self.services.find(service_pid) or self.services.unknown()

    def _send_as(self, ready: list[tuple[Service, Exchange]]) -> None:
        """Measures all, and makes spans of what is kept."""
        sample = self.sampler.sample
        routes = [service.routes.route_of(exchange) for service, exchange in ready]
        places = [sample(exchange) for _, exchange in ready]
        kept: list[Ended] = []
        for (service, exchange), route, place in zip(ready, routes, places, strict=True):
            if place is None:
                self.ledger.of(exchange.service_pid).tally[NOT_SAMPLED] += 1
                self._measure(service, exchange, route, None)
            elif self.outcomes is None:
                kept.append(_new_tuple(Ended, (service, exchange, route, place)))
            else:
                kept += self._offer(self.outcomes, Ended(service, exchange, route, place))
        if self.outcomes is None and self.measuring is not None:
            for service, exchange, route, place in kept:
                self._measure(service, exchange, route, place)
        self._emit(kept)

    def _offer(self, outcomes: OutcomeSampler[Ended], ended: Ended) -> list[Ended]:
        """What is kept, now that this one has ended."""
        service, exchange, route, place = ended
        decided = outcomes.offer(ended, exchange, place, service.name, route, self._now_ns)
        is_kept = bool(decided) and decided[-1].item is ended and decided[-1].threshold is not None
        self._measure(service, exchange, route, place if is_kept else None)
        return self._settled(decided)

    def _settled(self, decided: list[Decided[Ended]]) -> list[Ended]:
        kept = []
        for ended, threshold in decided:
            if threshold is None:
                self.ledger.of(ended.exchange.service_pid).tally[NOT_SAMPLED] += 1
            else:
                kept.append(ended._replace(place=with_weight(ended.place, threshold)))
        return kept

    def _measure(self, service: Service, exchange: Exchange, route: bytes | None, kept: SpanPlace | None) -> None:
        """`kept`: where its span belongs, when it is known that there is to be one; exemplars name no others."""
        if self.measuring is not None:
            ids = None if kept is None or self._sink is None else kept[:2]
            self.measuring.record(service, exchange, route, ids)

    def _emit(self, kept: list[Ended]) -> None:
        build, offset_ns, wants_evidence = self._builder.build, self._offset_ns, self._wants_evidence
        spans = [
            build(
                exchange,
                place,
                offset_ns,
                route,
                evidence_of(exchange, route, service.routes) if wants_evidence else (),
            )
            for service, exchange, route, place in kept
        ]
        for ended in kept:
            self.ledger.of(ended.exchange.service_pid).spans += 1
        if self._printer is not None:
            for ended, span in zip(kept, spans, strict=True):
                self._printer.add(ended.exchange, span, ended.service.name)
        if self._sink is not None:
            encode, encoded = self._encoder.encode_span, self._encoded
            for ended, span_bytes in zip(kept, [encode(span) for span in spans], strict=True):
                encoded.setdefault(ended.service.resource, []).append(span_bytes)


def _join(exchange: Exchange, lookup: Lookup) -> None:
    exchange.lookup = lookup
    exchange.asked_name = asked_name(exchange)
    if not lookup.is_same_thread:
        exchange.inferred |= Inferred.LOOKUP_BY_ADDRESS


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
