"""The way of the data on the unprivileged side: ring -> records -> exchanges -> spans -> printer and sender.

In:   shared memory of the kernel, frames of the probe
Out:  lines to the printer, encoded spans to the queue
Owns: the assembler, the services, and the count of every exchange that gave no span

One `tick` is one pass over what has come; it never waits for the network.
"""

import time
from collections import Counter as Tally
from typing import Protocol

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.export.console import Console
from otel_ebpf.export.otlp import SpanEncoder
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.services import Service, Services
from otel_ebpf.records.decode import Buffer, DecodeError, decode_record
from otel_ebpf.records.frames import Frame, ServiceGone, Shutdown
from otel_ebpf.records.kinds import Counter, CounterReading
from otel_ebpf.records.progress import ProgressTable
from otel_ebpf.records.ring import RingReader
from otel_ebpf.telemetry.clock import offset_ns
from otel_ebpf.telemetry.spans import SpanBuilder

_HOLD_NS = 1_000_000_000  # for the identity of a service that is already being watched
_MAX_HELD = 10_000
_CLOCK_EVERY_NS = 10_000_000_000


class SpanSink(Protocol):
    """The sender, as far as the pipeline needs it."""

    def put(self, resource: bytes, spans: list[bytes]) -> None: ...
    def own_endpoints(self) -> frozenset[Endpoint]: ...


class Pipeline:
    def __init__(
        self,
        ring: RingReader,
        progress: ProgressTable,
        services: Services,
        builder: SpanBuilder,
        printer: Console | None,
        sink: SpanSink | None,
    ) -> None:
        self.assembler = Assembler()
        self.counters = CounterReading((0,) * len(Counter))
        self.spans = 0
        self.unsent: Tally[str] = Tally()  # exchanges without a span, by reason
        self._ring = ring
        self._progress = progress
        self._services = services
        self._builder = builder
        self._encoder = SpanEncoder()
        self._printer = printer
        self._sink = sink
        self._done: list[Exchange] = []
        self._held: list[tuple[int, Exchange]] = []
        self._encoded: dict[bytes, list[bytes]] = {}  # of this tick, by resource
        self._offset_ns = 0
        self._clock_at_ns = -_CLOCK_EVERY_NS

    def take_frame(self, frame: Frame) -> None:
        if isinstance(frame, CounterReading):
            self.counters = frame
        elif isinstance(frame, ServiceGone):
            self._services.say_goodbye(frame.service_pid, time.monotonic_ns())
        elif not isinstance(frame, Shutdown):
            self._services.learn(frame)

    @property
    def produced(self) -> int:
        """To be read before the frames are, and given to `tick`: what a record names was told before."""
        return self._ring.produced

    def tick(self, until: int) -> int:
        """One pass; returns how many records there were."""
        now_ns = time.monotonic_ns()
        if now_ns - self._clock_at_ns >= _CLOCK_EVERY_NS:
            self._clock_at_ns = now_ns
            self._offset_ns = offset_ns(time.monotonic_ns(), time.time_ns())
            self._services.forget_gone(now_ns)
        record_count = self._ring.drain(self._take_record, until)
        self._done += self.assembler.watch(self._progress.read, now_ns)
        done, self._done = self._done, []
        if self._held:
            held, self._held = self._held, []
            for held_since_ns, exchange in held:
                self._send(exchange, held_since_ns, now_ns)
        if done:
            self._send_all(done, now_ns)
        self._put_encoded()
        if self._printer is not None:
            self._printer.flush(now_ns / 1e9)
        return record_count

    def finish(self) -> None:
        """The last pass: nothing is held back any more, what is still open is counted."""
        self.tick(self.produced)
        held, self._held = self._held, []
        for _, exchange in held:
            self._send_as(self._services.unknown(), exchange)
        self._put_encoded()
        self.assembler.end_all(self._progress.read)
        if self._printer is not None:
            self._printer.flush(time.monotonic(), is_last=True)

    def _put_encoded(self) -> None:
        if self._sink is not None and self._encoded:
            for resource, spans in self._encoded.items():
                self._sink.put(resource, spans)
            self._encoded.clear()

    def _take_record(self, data: Buffer, offset: int, length: int) -> None:
        try:
            done = self.assembler.feed(decode_record(data, offset, length))
        except DecodeError:
            self.unsent["undecodable record"] += 1
            return
        if done:
            self._done += done

    def _send_all(self, done: list[Exchange], now_ns: int) -> None:
        own = self._sink.own_endpoints() if self._sink is not None else frozenset()
        for exchange in done:
            if own and exchange.role is Role.SERVER and (exchange.remote_address, exchange.remote_port) in own:
                self.unsent["the agent's own"] += 1
                continue
            self._send(exchange, now_ns, now_ns)

    def _send(self, exchange: Exchange, held_since_ns: int, now_ns: int) -> None:
        service = self._services.find(exchange.service_pid)
        if service is None:
            if now_ns - held_since_ns < _HOLD_NS and len(self._held) < _MAX_HELD:
                self._held.append((held_since_ns, exchange))
                return
            service = self._services.unknown()
        self._send_as(service, exchange)

    def _send_as(self, service: Service, exchange: Exchange) -> None:
        span = self._builder.build(exchange, self._offset_ns)
        if self._printer is not None:
            self._printer.add(exchange, span, service.name)
        if not span.is_sampled:
            self.unsent["not sampled"] += 1
            return
        self.spans += 1
        if self._sink is not None:
            self._encoded.setdefault(service.resource, []).append(self._encoder.encode_span(span))
