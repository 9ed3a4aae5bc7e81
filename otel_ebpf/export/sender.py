"""Sends waiting spans to the collector, in a thread of its own.

In:   encoded spans (through `queue`)
Out:  OTLP requests; counts of what became of the spans; messages when the collector's state changes
Owns: the queue, the sender's thread, the back-off

Construct it while files can be read, `start` it after rights were dropped: construction reads certificates and imports
all that is ever needed, and starts no thread. A batch that was not taken goes back to the head of the queue and is
tried again until it is taken, refused, or pushed out by newer spans; nothing is lost without a count.
"""

import random
import socket
import threading
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from otel_ebpf.config import OtlpSettings
from otel_ebpf.errors import AgentError
from otel_ebpf.export.attempts import Attempt, Report, Result, printable_detail
from otel_ebpf.export.otlp import encode_batch, encode_scope
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.queue import DEFAULT_LIMIT_BYTES, Batch, SpanQueue

FIRST_BACK_OFF_SECONDS = 1.0
LAST_BACK_OFF_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 600.0  # a collector that asks for more is asked again all the same
QUIET_SECONDS = 10.0  # between messages, for a collector that comes and goes
ABORT_SECONDS = 0.2  # from the end of the deadline to the end of the thread


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """How spans are gathered before they are sent."""

    queue_bytes: int = DEFAULT_LIMIT_BYTES
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
        self.queue = SpanQueue(options.queue_bytes, options.batch_spans)
        self._settings = settings
        self._options = options
        self._scope = encode_scope(version)
        self._report = report
        self._state = CollectorState(settings.endpoint_for_people, options.queue_bytes)
        self._transport = make_transport(settings)
        self._thread = threading.Thread(target=self._run, name="otlp-sender", daemon=True)
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._exported = 0
        self._rejected = 0
        self._failures_in_row = 0

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
        batch = self.queue.take(self._options.batch_spans, self._options.batch_bytes)
        if batch is None:
            return 0.0
        timeout = min(self._settings.timeout_ms / 1000, max(0.05, self._deadline - monotonic()))
        attempt = self._transport.attempt(encode_batch(batch.groups(), self._scope), timeout)
        self._count(batch, attempt)
        message = self._state.message(attempt, monotonic(), self.queue.dropped)
        if message:
            self._report(message)
        if attempt.result is not Result.TRY_AGAIN:
            self._failures_in_row = 0
            return 0.0
        self._failures_in_row += 1
        return back_off_seconds(self._failures_in_row, attempt.retry_after_seconds)

    def _count(self, batch: Batch, attempt: Attempt) -> None:
        span_count = len(batch.spans)
        if attempt.result is Result.TRY_AGAIN:
            self.queue.put_back(batch)
        elif attempt.result is Result.REFUSED:
            self._rejected += span_count
        else:
            rejected = min(attempt.rejected_spans, span_count)
            self._rejected += rejected
            self._exported += span_count - rejected


def back_off_seconds(failures_in_row: int, retry_after_seconds: float | None, jitter: float | None = None) -> float:
    """1, 2, 4 ... 30 s, spread by a fifth so that agents do not return all at once; or what the collector asked for."""
    if retry_after_seconds is not None:
        return min(max(retry_after_seconds, 0.01), LONGEST_RETRY_AFTER_SECONDS)
    spread = random.uniform(0.8, 1.2) if jitter is None else jitter
    doubled: float = FIRST_BACK_OFF_SECONDS * 2 ** min(failures_in_row - 1, 10)
    return min(doubled, LAST_BACK_OFF_SECONDS) * spread


_WORDS = {
    Result.TRY_AGAIN.value: "takes no spans now",
    Result.REFUSED.value: "refuses spans",
    "partly": "rejects some spans",
}


class CollectorState:
    """Turns many attempts into few messages: one when the collector's state has changed."""

    def __init__(self, endpoint: str, queue_bytes: int) -> None:
        self._endpoint = endpoint
        self._queue_bytes = queue_bytes
        self.last = "nothing was sent yet"  # how the newest attempt ended, for people
        self._reported = "well"
        self._complained_at = float("-inf")
        self._ill_since = 0.0
        self._dropped_before = 0

    def message(self, attempt: Attempt, now: float, dropped: int) -> str | None:
        """What to say after this attempt, None when nothing is new or the last complaint is a moment old."""
        state = "well" if attempt.result is Result.DELIVERED else attempt.result.value
        if attempt.rejected_spans:
            state = "partly"
        self.last = "takes spans" if state == "well" else _WORDS[state] + (attempt.detail and f": {attempt.detail}")
        before = self._reported
        if state == before or (state != "well" and now < self._complained_at + QUIET_SECONDS):
            return None
        self._reported = state
        if state == "well":
            lost, self._dropped_before = dropped - self._dropped_before, dropped
            seconds = now - self._ill_since
            return (
                None
                if before == "partly"
                else f"the collector at {self._endpoint} takes spans again after {seconds:.0f} s; "
                f"{lost} were dropped from the queue meanwhile."
            )
        self._complained_at = now
        if before == "well":
            self._ill_since = now
        if state == "partly":
            count = attempt.rejected_spans
            return f"the collector at {self._endpoint} rejects spans ({count} of a batch): {attempt.detail}"
        if attempt.result is Result.REFUSED:
            return f"the collector at {self._endpoint} refuses spans: {attempt.detail}. They are counted as rejected."
        return (
            f"the collector at {self._endpoint} takes no spans: {attempt.detail}. "
            f"Trying again; up to {self._queue_bytes // 1024} KiB of spans are kept meanwhile."
        )


def make_transport(settings: OtlpSettings) -> Transport:
    """The transport for a protocol; only its modules are imported, gRPC's cost 8 MB."""
    if settings.protocol != "grpc":
        from otel_ebpf.export.transport_http import HttpTransport

        return HttpTransport(settings)
    try:
        from otel_ebpf.export.transport_grpc import GrpcTransport
    except ImportError as error:
        raise AgentError(
            f"OTLP over gRPC is not installed: {error}.",
            "pip install opentelemetry-exporter-otlp-proto-grpc, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
        ) from error
    return GrpcTransport(settings)


class CollectorCheck(NamedTuple):
    is_reachable: bool
    detail: str


def check_collector(settings: OtlpSettings, timeout_seconds: float = 2.0) -> CollectorCheck:
    """Whether the collector's port can be connected to; nothing is sent."""
    parts = urlsplit(settings.endpoint)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    shown = settings.endpoint_for_people
    try:
        socket.create_connection((host, port), timeout_seconds).close()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return CollectorCheck(False, printable_detail(f"{shown} cannot be reached: {reason}"))
    return CollectorCheck(True, f"{shown} can be reached")
