"""Sends waiting spans to the collector, in a thread of its own.

In:   encoded spans (through `queue`)
Out:  OTLP requests; counts of what became of the spans; messages when the collector's state changes
Owns: the queue, the sender's thread, the back-off and the pace

Construct it while files can be read, `start` it after rights were dropped: construction reads certificates and imports
all that is ever needed, and starts no thread. A batch that was not taken goes back to the head of the queue and is
tried again until it is taken, refused, or pushed out by newer spans; nothing is lost without a count.

With a spool it goes to the disk instead, and so does what comes later. While there is something on the disk, only that is sent,
oldest first: the order stays. After an outage there is much to send, on every host at once, so between two of its batches there is
a pause as long as the collector needed for the first.
"""

import random
import threading
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, Protocol

from otel_ebpf.errors import AgentError
from otel_ebpf.export.attempts import Attempt, Report, Result, try_again
from otel_ebpf.export.collector_state import CollectorState, SignalWords
from otel_ebpf.export.keeper import RETRY_SECONDS, Keeper
from otel_ebpf.export.operations import Operations
from otel_ebpf.export.otlp import encode_batch, encode_scope, split_request
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.queue import BATCH_BYTES, DEFAULT_LIMIT_BYTES, SpanQueue
from otel_ebpf.export.signals import TRACES_SIGNAL, Signal
from otel_ebpf.export.spool import Spool, SpoolError
from otel_ebpf.otlp_settings import OtlpSettings

FIRST_BACK_OFF_SECONDS = 1.0
LAST_BACK_OFF_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 600.0  # a collector that asks for more is asked again all the same
PATIENCE_SECONDS = 1.0  # beyond the schedule delay: what a healthy collector needs to answer
MOST_SECONDS_TO_KEEP = 0.5  # of the time to stop in, for what could not be sent
ABORT_SECONDS = 0.2  # from the end of the deadline to the end of the thread


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """How spans are gathered before they are sent."""

    queue_bytes: int = DEFAULT_LIMIT_BYTES
    queue_spans: int | None = None  # OTEL_BSP_MAX_QUEUE_SIZE
    batch_spans: int = 512  # OTEL_BSP_MAX_EXPORT_BATCH_SIZE
    batch_bytes: int = BATCH_BYTES
    schedule_delay_ms: int = 500  # OTEL_BSP_SCHEDULE_DELAY


class SendCounts(NamedTuple):
    """What became of all spans that were put into the queue, and of those that were on the disk already: those together are
    the sum of the others. While the sender runs, `failed` is 0; afterwards, `waiting` is."""

    exported: int
    rejected: int  # refused by the collector, whole batches and parts of them
    dropped: int  # pushed out of the full queue or the full spool, or lost with a damaged one
    failed: int  # not sent when the sender stopped, and not on the disk
    waiting: int = 0  # in memory, those on their way included
    on_disk: int = 0
    found_on_disk: int = 0  # at the start


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
        spool: Spool | None = None,
    ) -> None:
        """`report` gets one line a change of the collector's state, in the sender's thread."""
        self.queue = SpanQueue(options.queue_bytes, options.batch_spans, options.queue_spans)
        self.settings = settings
        self._options = options
        self._scope = encode_scope(version)
        self._report = report
        self._keeper: Keeper | None = None
        most_bytes, where = options.queue_bytes, "in memory"
        if spool is not None:
            patience_seconds = options.schedule_delay_ms / 1000 + PATIENCE_SECONDS
            self._keeper = Keeper(self.queue, spool, self._scope, patience_seconds, report)
            most_bytes, where = spool.limit_bytes, f"in {spool.folder}"
        kept = f"up to {most_bytes >> 10} KiB of spans are kept {where} meanwhile."
        words = SignalWords("spans", kept, "They are counted as rejected.")
        self._state = CollectorState(settings.endpoint_for_people, words)
        self._transport = make_transport(settings)
        self._thread = threading.Thread(target=self._run, name="otlp-sender", daemon=True)
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self.operations = Operations()
        self._exported = 0
        self._rejected = 0
        self._failures_in_row = 0
        self._spool_rests_until = float("-inf")  # after its disk has failed
        self._most_bytes = options.batch_bytes  # less once the collector has refused a request of that size

    def start(self) -> None:
        self._transport.start()
        if self._keeper is not None:
            self._keeper.start()
        self._thread.start()

    def counts(self) -> SendCounts:
        """Exact in the sum at any moment: read against the direction in which spans go, so that none counts twice."""
        exported, rejected = self._exported, self._rejected
        lost = on_disk = found = 0
        if self._keeper is not None:
            spool = self._keeper.spool
            lost, on_disk, found = spool.dropped, spool.spans, spool.inherited
        dropped = self.queue.dropped + lost
        waiting = self.queue.accepted + found - exported - rejected - dropped - on_disk
        return SendCounts(exported, rejected, dropped, 0, waiting, on_disk, found)

    @property
    def endpoint_for_people(self) -> str:
        return self.settings.endpoint_for_people

    @property
    def collector_state(self) -> str:
        return self._state.last

    def own_endpoints(self) -> frozenset[Endpoint]:
        """Local (address, port) of connections to the collector, open or just closed; cheap enough for every tick."""
        return self._transport.own_endpoints()

    def stop(self, deadline_seconds: float) -> SendCounts:
        """Sends what waits, as far as the time allows, or writes it to the disk, and ends. Returns within the deadline and a
        fraction."""
        end = monotonic() + deadline_seconds
        self._deadline = end - (min(MOST_SECONDS_TO_KEEP, deadline_seconds / 2) if self._keeper else 0.0)
        self._stopping.set()
        self.queue.close()
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._deadline - monotonic()))
            if self._thread.is_alive():
                self._transport.abort()
                self._thread.join(ABORT_SECONDS)
        if self._keeper is not None:
            self._keeper.finish(max(ABORT_SECONDS, end - monotonic()))
            self._keeper.spool.close()
        self._transport.close()
        counts = self.counts()
        return counts._replace(failed=counts.waiting, waiting=0)

    def _run(self) -> None:
        delay_seconds = self._options.schedule_delay_ms / 1000
        while not self._stopping.is_set():
            if keeper := self._keeper_to_relieve():
                wait_seconds = self._send_kept(keeper)
            elif self.queue.wait_for_batch(delay_seconds):
                wait_seconds = self._send_waiting()
            else:
                continue
            self._stopping.wait(wait_seconds)
        while self.queue.waiting and monotonic() < self._deadline and not self._keeper_to_relieve():
            if self._send_waiting():
                break  # the collector is not there; waiting for it would only delay the end

    def _keeper_to_relieve(self) -> Keeper | None:
        """The keeper, while it has something, and its disk can be read."""
        has_spans = self._keeper is not None and self._keeper.has_spans
        return self._keeper if has_spans and self._spool_rests_until <= monotonic() else None

    def _send_waiting(self) -> float:
        """Sends the oldest batch in memory; returns how long to wait before the next, 0 when all is well."""
        batch = self.queue.take(self._options.batch_spans, self._most_bytes)
        if batch is None:
            return 0.0
        if keeper := self._keeper_to_relieve():  # it took what came before this batch at the same moment
            keeper.keep(batch)
            return 0.0
        request = encode_batch(batch.groups(), self._scope)
        delivery = self._deliver(request, len(batch.spans))
        self._exported += delivery.exported
        self._rejected += delivery.rejected
        if delivery.unsent_spans:
            left = batch.last(delivery.unsent_spans)
            if self._keeper is None:
                self.queue.put_back(left)
            else:
                self._keeper.keep(left)
        return self._pause_after(delivery)

    def _send_kept(self, keeper: Keeper) -> float:
        """The same with the oldest batch on the disk, and a pause in any case."""
        began = monotonic()
        try:
            kept = keeper.spool.oldest()
        except SpoolError as error:
            keeper.complain(error)
            self._spool_rests_until = monotonic() + RETRY_SECONDS  # meanwhile, what waits in memory is sent
            return 0.0
        if kept is None:
            return 0.0
        delivery = self._deliver(kept.request, kept.span_count)
        try:
            keeper.spool.settle(kept, delivery.unsent_spans)
        except SpoolError as error:
            keeper.complain(error)
        else:
            self._exported += delivery.exported
            self._rejected += delivery.rejected
        return self._pause_after(delivery) or (monotonic() - began) * random.uniform(0.8, 1.2)

    def _pause_after(self, delivery: "Delivery") -> float:
        counts = self.counts()
        message = self._state.message(delivery.worst, monotonic(), counts.dropped, counts.on_disk)
        if message and monotonic() < self._deadline:  # afterwards it is the agent that ends
            self._report(message)
        if delivery.is_going_on:
            self._failures_in_row = 0
            self._most_bytes = min(self._options.batch_bytes, self._most_bytes + 1 + self._most_bytes // 64)
            return 0.0
        self._failures_in_row += 1
        return back_off_seconds(self._failures_in_row, delivery.worst.retry_after_seconds)

    def _deliver(self, request: bytes, span_count: int) -> "Delivery":
        """Sends a request and says what became of it; one that is too large is sent again in halves."""
        pieces = [(request, span_count)]
        worst = Attempt(Result.DELIVERED)
        exported = rejected = 0
        while pieces:
            request, span_count = pieces.pop()
            attempt = self._attempt(request)
            if attempt.result is Result.TRY_AGAIN:
                unsent = span_count + sum(count for _, count in pieces)
                return Delivery(attempt, exported, rejected, unsent, is_going_on=False)
            if attempt.result is Result.TOO_LARGE and span_count > 1:
                self._most_bytes = min(self._most_bytes, len(request) // 2)
                half = span_count // 2
                first, second = split_request(request, half)
                pieces += [(second, span_count - half), (first, half)]
                continue
            refused = min(attempt.rejected, span_count) if attempt.result is Result.DELIVERED else span_count
            rejected += refused
            exported += span_count - refused
            if worst.result is Result.DELIVERED and not worst.rejected:
                worst = attempt
        # A collector for which even single spans are too large would get a request for each span, without a pause.
        return Delivery(worst, exported, rejected, 0, is_going_on=exported > 0 or worst.result is not Result.TOO_LARGE)

    def _attempt(self, request: bytes) -> Attempt:
        left = self._deadline - monotonic()
        if left <= 0:
            return try_again("the agent ends")
        most_seconds = min(self.settings.timeout_ms / 1000, max(0.05, left))
        return self.operations.timed(lambda: self._transport.attempt(request, most_seconds))


class Delivery(NamedTuple):
    """What became of a batch."""

    worst: Attempt  # of its pieces
    exported: int
    rejected: int
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
