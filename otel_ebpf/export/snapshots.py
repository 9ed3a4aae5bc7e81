"""What other threads may see of the pipeline: a snapshot, taken by the pipeline's own thread between two passes.

In:   questions, from threads that export or are scraped
Out:  Snapshot
Owns: the questions that wait

Nothing is locked and the ring is never kept waiting, but for the time of the copy: about 4 µs a series.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_ebpf.export.ledger_readings import Standing
from otel_ebpf.telemetry.active_requests import ActiveCount
from otel_ebpf.telemetry.differences import Differences
from otel_ebpf.telemetry.metrics import Meter, ServiceSeries

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import ResourceMetrics


@dataclass(frozen=True, slots=True)
class Snapshot:
    at_unix_ns: int
    offset_ns: int  # from CLOCK_MONOTONIC to the wall clock
    services: dict[bytes, ServiceSeries]  # by resource
    active: list[ActiveCount]
    standings: list[Standing] = field(default_factory=list)
    host: Standing | None = None


# What the agent says of itself.
OwnMetrics = Callable[[Snapshot, Differences | None], "list[ResourceMetrics]"]


def no_own_metrics(snapshot: Snapshot, differences: Differences | None) -> "list[ResourceMetrics]":
    return []


Take = Callable[[Meter], Snapshot]


class Desk:
    """Asked in any thread, served in the pipeline's."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Meter, Future[Snapshot]]] = deque()
        self._is_closed = False

    def ask(self, meter: Meter, timeout_seconds: float) -> Snapshot | None:
        """None when there is no answer in time: the pipeline is busy, or has ended."""
        answer: Future[Snapshot] = Future()
        self._waiting.append((meter, answer))
        if self._is_closed and answer.cancel():  # in this order: who closes answers what was asked before
            return None
        try:
            return answer.result(timeout_seconds)
        except TimeoutError:
            return None if answer.cancel() else answer.result()  # it was being given just then

    def close(self, take: Take) -> None:
        """Answers for the last time: nobody is kept waiting at the end."""
        self._is_closed = True
        self.serve(take)

    def serve(self, take: Take) -> None:
        """Answers all who wait. Totals are copied once for all of them, so that many scrapes cost as much as one."""
        shared: dict[int, Snapshot] = {}
        while self._waiting:
            meter, answer = self._waiting.popleft()
            if answer.set_running_or_notify_cancel():
                snapshot = shared.get(id(meter)) or take(meter)
                if not meter.options.is_delta:
                    shared[id(meter)] = snapshot
                answer.set_result(snapshot)
