"""Sends waiting spans to the collector, in a thread of its own.

In:   encoded spans (through `queue`)
Out:  OTLP requests; counts of what became of the spans; messages when the collector's state changes
Owns: the queue, the sender's thread, the back-off

Construct it while files can be read, `start` it after rights were dropped: construction reads certificates and imports
all that is ever needed, and starts no thread. A batch that was not taken goes back to the head of the queue and is
tried again until it is taken, refused, or pushed out by newer spans; nothing is lost without a count.
"""

import random
import threading
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, Protocol

from otel_ebpf.errors import AgentError
from otel_ebpf.export.attempts import Attempt, Report, Result, try_again
from otel_ebpf.export.collector_state import CollectorState, SignalWords
from otel_ebpf.export.otlp import encode_batch, encode_scope, split_request
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.queue import DEFAULT_LIMIT_BYTES, SpanQueue
from otel_ebpf.export.signals import TRACES_SIGNAL, Signal
from otel_ebpf.otlp_settings import OtlpSettings

FIRST_BACK_OFF_SECONDS = 1.0
LAST_BACK_OFF_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 600.0  # a collector that asks for more is asked again all the same
ABORT_SECONDS = 0.2  # from the end of the deadline to the end of the thread


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """How spans are gathered before they are sent."""

    queue_bytes: int = DEFAULT_LIMIT_BYTES
    queue_spans: int | None = None  # OTEL_BSP_MAX_QUEUE_SIZE
    batch_spans: int = 512  # OTEL_BSP_MAX_EXPORT_BATCH_SIZE
    batch_bytes: int = 2 * 1024 * 1024  # gRPC servers refuse more than 4 MiB by default
    schedule_delay_ms: int = 500  # OTEL_BSP_SCHEDULE_DELAY


class SendCounts(NamedTuple):
    """What became of all spans that were put into the queue. While the sender runs, `failed` is 0."""

    exported: int
    rejected: int  # refused by the collector, whole batches and parts of them
    dropped: int  # pushed out of the full queue
    failed: int  # not sent when the sender stopped


class Transport(Protocol):
    def start(self) -> None: ...
    def attempt(self, request: bytes, timeout_seconds: float) -> Attempt: ...
    def own_endpoints(self) -> frozenset[Endpoint]: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


class Sender:
    """The one consumer of its queue."""

    def __init__(
        self,
        settings: OtlpSettings,
        version: str,
        report: Report,
        options: SenderOptions = SenderOptions(),
    ) -> None:
        """`report` gets one line a change of the collector's state, in the sender's thread."""
        self.queue = SpanQueue(options.queue_bytes, options.batch_spans, options.queue_spans)
        self._settings = settings
        self._options = options
        self._scope = encode_scope(version)
        self._report = report
        kept = f"up to {options.queue_bytes // 1024} KiB of spans are kept meanwhile."
        words = SignalWords("spans", kept, "They are counted as rejected.")
        self._state = CollectorState(settings.endpoint_for_people, words)
        self._transport = make_transport(settings)
        self._thread = threading.Thread(target=self._run, name="otlp-sender", daemon=True)
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._exported = 0
        self._rejected = 0
        self._failures_in_row = 0
        self._most_bytes = options.batch_bytes  # less once the collector has refused a request of that size

    def start(self) -> None:
        self._transport.start()
        self._thread.start()

    def counts(self) -> SendCounts:
        return SendCounts(self._exported, self._rejected, self.queue.dropped, 0)

    @property
    def endpoint_for_people(self) -> str:
        return self._settings.endpoint_for_people

    @property
    def collector_state(self) -> str:
        return self._state.last

    def own_endpoints(self) -> frozenset[Endpoint]:
        """Local (address, port) of connections to the collector, open or just closed; cheap enough for every tick."""
        return self._transport.own_endpoints()

    def stop(self, deadline_seconds: float) -> SendCounts:
        """Sends what waits, as far as the time allows, and ends. Returns within the deadline and a fraction."""
        self._deadline = monotonic() + deadline_seconds
        self._stopping.set()
        self.queue.close()
        if self._thread.ident is not None:
            self._thread.join(deadline_seconds)
            if self._thread.is_alive():
                self._transport.abort()
                self._thread.join(ABORT_SECONDS)
        exported, rejected, dropped, _ = self.counts()
        failed = self.queue.accepted - exported - rejected - dropped
        self._transport.close()
        return SendCounts(exported, rejected, dropped, failed)

    def _run(self) -> None:
        while self.queue.wait_for_batch(self._options.schedule_delay_ms / 1000):
            wait_seconds = self._send_one()
            if wait_seconds:
                self._stopping.wait(wait_seconds)
        while self.queue.waiting and monotonic() < self._deadline:
            if self._send_one():
                break  # the collector is not there; waiting for it would only delay the end

    def _send_one(self) -> float:
        """Sends the oldest batch; returns how long to wait before the next, 0 when all is well."""
        batch = self.queue.take(self._options.batch_spans, self._most_bytes)
        if batch is None:
            return 0.0
        delivery = self._deliver(encode_batch(batch.groups(), self._scope), len(batch.spans))
        if delivery.unsent_spans:
            self.queue.put_back(batch.last(delivery.unsent_spans))
        message = self._state.message(delivery.worst, monotonic(), self.queue.dropped)
        if message:
            self._report(message)
        if delivery.is_going_on:
            self._failures_in_row = 0
            self._most_bytes = min(self._options.batch_bytes, self._most_bytes + 1 + self._most_bytes // 64)
            return 0.0
        self._failures_in_row += 1
        return back_off_seconds(self._failures_in_row, delivery.worst.retry_after_seconds)

    def _deliver(self, request: bytes, span_count: int) -> "Delivery":
        """Sends a request and counts what became of it; one that is too large is sent again in halves."""
        pieces = [(request, span_count)]
        worst = Attempt(Result.DELIVERED)
        is_anything_taken = False
        while pieces:
            request, span_count = pieces.pop()
            attempt = self._attempt(request)
            if attempt.result is Result.TRY_AGAIN:
                return Delivery(attempt, span_count + sum(count for _, count in pieces), is_going_on=False)
            if attempt.result is Result.TOO_LARGE and span_count > 1:
                self._most_bytes = min(self._most_bytes, len(request) // 2)
                half = span_count // 2
                first, second = split_request(request, half)
                pieces += [(second, span_count - half), (first, half)]
                continue
            rejected = min(attempt.rejected, span_count) if attempt.result is Result.DELIVERED else span_count
            self._rejected += rejected
            self._exported += span_count - rejected
            is_anything_taken = is_anything_taken or attempt.result is Result.DELIVERED
            if worst.result is Result.DELIVERED and not worst.rejected:
                worst = attempt
        # A collector for which even single spans are too large would get a request for each span, without a pause.
        return Delivery(worst, 0, is_going_on=is_anything_taken or worst.result is not Result.TOO_LARGE)

    def _attempt(self, request: bytes) -> Attempt:
        left = self._deadline - monotonic()
        if left <= 0:
            return try_again("the agent ends")
        return self._transport.attempt(request, min(self._settings.timeout_ms / 1000, max(0.05, left)))


class Delivery(NamedTuple):
    """What became of a batch."""

    worst: Attempt  # of its pieces
    unsent_spans: int  # at its end, to be sent again
    is_going_on: bool  # no pause is needed


def back_off_seconds(failures_in_row: int, retry_after_seconds: float | None, jitter: float | None = None) -> float:
    """1, 2, 4 ... 30 s, spread by a fifth so that agents do not return all at once; or what the collector asked for."""
    if retry_after_seconds is not None:
        return min(max(retry_after_seconds, 0.01), LONGEST_RETRY_AFTER_SECONDS)
    spread = random.uniform(0.8, 1.2) if jitter is None else jitter
    doubled: float = FIRST_BACK_OFF_SECONDS * 2 ** min(failures_in_row - 1, 10)
    return min(doubled, LAST_BACK_OFF_SECONDS) * spread


def make_transport(settings: OtlpSettings, signal: Signal = TRACES_SIGNAL) -> Transport:
    """The transport for a protocol; only its modules are imported, gRPC's cost 8 MB."""
    if settings.protocol != "grpc":
        from otel_ebpf.export.transport_http import HttpTransport

        return HttpTransport(settings, signal)
    try:
        from otel_ebpf.export.transport_grpc import GrpcTransport
    except ImportError as error:
        raise AgentError(
            f"OTLP over gRPC is not installed: {error}.",
            "pip install opentelemetry-exporter-otlp-proto-grpc, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
        ) from error
    return GrpcTransport(settings, signal)
