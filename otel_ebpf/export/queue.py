"""Encoded spans that wait to be sent, bounded in bytes.

In:   encoded spans, from the thread that makes them
Out:  batches, to the sender's thread, and to the spool's when that does not take them
Owns: the waiting spans, and the count of those it had to drop

When full, the oldest go: what just happened matters more than what a dead collector missed. Nothing here waits for the
network, and no lock is held longer than a batch is copied, so `put` never blocks the ring.
"""

import sys
import threading
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple

DEFAULT_LIMIT_BYTES = 16 * 1024 * 1024  # about 33,000 spans of 500 bytes
BATCH_BYTES = 2 * 1024 * 1024  # gRPC servers refuse more than 4 MiB by default
IDLE_SECONDS = 1.0


class Batch(NamedTuple):
    """Spans in the order they came in, each with the resource they belong to."""

    spans: list[tuple[bytes, bytes]]
    size_bytes: int
    number: int = 0  # of the batches that were ever taken: the order in which their spans came

    def groups(self) -> list[tuple[bytes, list[bytes]]]:
        """By resource, as OTLP wants them."""
        found: dict[bytes, list[bytes]] = {}
        for resource, span in self.spans:
            found.setdefault(resource, []).append(span)
        return list(found.items())

    def last(self, count: int) -> "Batch":
        """The spans at the end of `groups`, which is the order of a request."""
        spans = [(resource, span) for resource, spans in self.groups() for span in spans][len(self.spans) - count :]
        return Batch(spans, sum(len(span) for _, span in spans), self.number)


class SpanQueue:
    """A bounded queue between threads; the order of its spans is that of the numbers of the batches taken."""

    def __init__(
        self, limit_bytes: int = DEFAULT_LIMIT_BYTES, batch_spans: int = 512, limit_spans: int | None = None
    ) -> None:
        """`limit_spans`: None for no other bound than bytes."""
        self.limit_bytes = limit_bytes
        self.limit_spans = limit_spans
        self._limit_spans = sys.maxsize if limit_spans is None else limit_spans
        self._batch_spans = min(batch_spans, self._limit_spans)
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._size_bytes = 0
        self._dropped = 0
        self._accepted = 0
        self._batches = 0
        self._taken_at = float("-inf")
        self._untouched_since = 0.0  # while spans wait
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._half_full = threading.Condition(self._lock)
        self._is_closed = False

    def put(self, resource: bytes, spans: Iterable[bytes]) -> None:
        """Takes spans of one resource over; drops the oldest of all if they do not fit."""
        added = [(resource, span) for span in spans]
        added_bytes = sum(len(span) for _, span in added)
        with self._lock:
            before = len(self._waiting)
            self._waiting.extend(added)
            self._size_bytes += added_bytes
            self._accepted += len(added)
            self._drop_oldest()
            if not before:
                self._untouched_since = monotonic()
            if not before or before < self._batch_spans <= len(self._waiting):
                self._changed.notify()
            if self._is_half_full:
                self._half_full.notify()

    def put_back(self, batch: Batch) -> None:
        """A batch that could not be sent is the oldest again."""
        with self._lock:
            self._waiting.extendleft(reversed(batch.spans))
            self._size_bytes += batch.size_bytes
            self._drop_oldest()

    def wait_for_batch(self, delay_seconds: float) -> bool:
        """Waits until a batch is full, or there is a span and the last batch was taken `delay_seconds` ago.

        So a lone span leaves at once. False once closed, and when none has come for a second."""
        with self._lock:
            while not self._is_closed:
                if len(self._waiting) >= self._batch_spans:
                    return True
                if not self._waiting:
                    if not self._changed.wait(IDLE_SECONDS):
                        return False
                    continue
                left = self._taken_at + delay_seconds - monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
            return False

    def wait_until_overdue(self, patience_seconds: float) -> bool:
        """Waits until spans wait and none was taken for so long, or the queue is half full. False once closed."""
        with self._lock:
            while not self._is_closed:
                left = self._untouched_since + patience_seconds - monotonic() if self._waiting else patience_seconds
                if left <= 0 or self._is_half_full:
                    return True
                self._half_full.wait(left)
            return False

    def take(self, most_spans: int | None = None, most_bytes: int = BATCH_BYTES) -> Batch | None:
        """The oldest spans, at least one if there is one; None when empty."""
        most_spans = self._batch_spans if most_spans is None else most_spans
        with self._lock:
            spans: list[tuple[bytes, bytes]] = []
            size = 0
            while self._waiting and len(spans) < most_spans:
                length = len(self._waiting[0][1])
                if spans and size + length > most_bytes:
                    break
                spans.append(self._waiting.popleft())
                size += length
            self._size_bytes -= size
            if not spans:
                return None
            self._taken_at = self._untouched_since = monotonic()
            self._batches += 1
            return Batch(spans, size, self._batches)

    def close(self) -> None:
        """Wakes the consumer for the last time; spans that wait can still be taken."""
        with self._lock:
            self._is_closed = True
            self._changed.notify_all()
            self._half_full.notify_all()

    @property
    def _is_half_full(self) -> bool:
        return 2 * self._size_bytes > self.limit_bytes or 2 * len(self._waiting) > self._limit_spans

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def accepted(self) -> int:
        """Spans that were ever put in."""
        return self._accepted

    @property
    def dropped(self) -> int:
        """Spans that were lost here since the start."""
        return self._dropped

    def _drop_oldest(self) -> None:
        while self._waiting and (self._size_bytes > self.limit_bytes or len(self._waiting) > self._limit_spans):
            _, span = self._waiting.popleft()
            self._size_bytes -= len(span)
            self._dropped += 1
