"""Moves spans from memory to the spool when nobody takes them, in a thread of its own.

In:   the queue; batches that the sender could not send
Out:  rows of the spool; one message when the disk begins to fail, one when it works again
Owns: its thread

With a collector that takes what it is sent, nothing waits for long and nothing is written. The disk may be slow: only this thread
and the sender's ever wait for it, never the one that makes spans.
"""

import threading

from otel_ebpf.export.attempts import Report
from otel_ebpf.export.otlp import encode_batch
from otel_ebpf.export.queue import Batch, SpanQueue
from otel_ebpf.export.spool import Spool, SpoolError

RETRY_SECONDS = 5.0  # of a disk that fails


class Keeper:
    """`keep` and `complain` are for the sender's thread, too."""

    def __init__(self, queue: SpanQueue, spool: Spool, scope: bytes, patience_seconds: float, report: Report) -> None:
        """`patience_seconds`: for how long nobody need take what waits in memory."""
        self._queue = queue
        self.spool = spool
        self._scope = scope
        self._patience_seconds = patience_seconds
        self._report = report
        self._is_moving = False
        self._is_failing = False
        self._dropped_before = 0
        self._reporting = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span-keeper", daemon=True)

    def start(self) -> None:
        """What may be wrong with the disk is said, and tried again; the agent starts."""
        try:
            self.spool.open()
        except SpoolError as error:
            self.complain(error)
        self._thread.start()

    def keep(self, batch: Batch) -> bool:
        """Writes it to the disk; if that does not take it, the batch is in the queue again."""
        try:
            self.spool.add(batch.number, encode_batch(batch.groups(), self._scope), len(batch.spans))
        except SpoolError as error:
            self._queue.put_back(batch)
            self.complain(error)
            return False
        with self._reporting:
            # A disk that had room for this batch may have none for those that wait: it is well once none does.
            if self._is_failing and not self._queue.waiting:
                lost = self._queue.dropped - self._dropped_before
                self._report(f"spans are kept in {self.spool.folder} again; {lost} were dropped meanwhile.")
                self._is_failing = False
        return True

    def complain(self, error: SpoolError) -> None:
        """Says that the disk fails, once."""
        with self._reporting:
            if not self._is_failing:
                self._dropped_before = self._queue.dropped
                self._report(
                    f"cannot keep spans in {self.spool.folder}: {error}. They stay in memory, "
                    f"up to {self._queue.limit_bytes >> 10} KiB, the oldest are dropped and counted; trying again."
                )
            self._is_failing = True

    @property
    def has_spans(self) -> bool:
        """On the disk, or on their way there; what is in the queue is younger."""
        return self._is_moving or self.spool.spans > 0

    def finish(self, seconds: float) -> None:
        """Keeps all that waits, once nothing else takes from the queue; returns in time, done or not."""
        self._stopping.set()
        self._queue.close()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while self._queue.wait_until_overdue(self._patience_seconds):
            if not self._keep_all():
                self._stopping.wait(RETRY_SECONDS)
        self._stopping.wait()
        self._keep_all()

    def _keep_all(self) -> bool:
        self._is_moving = True
        try:
            while batch := self._queue.take():
                if not self.keep(batch):
                    return False
            return True
        finally:
            self._is_moving = False
