"""How long requests to the collector took, by how they ended.

In:   attempts, in the thread that sends
Out:  copies of the histograms, to any thread
Owns: the histograms, few: there are four ways to end
"""

import threading
import time
from collections.abc import Callable

from otel_ebpf.export.attempts import Attempt, Result
from otel_ebpf.telemetry.histograms import ExplicitHistogram
from otel_ebpf.telemetry.metrics import DURATION_BOUNDS_NS

ERROR_TYPES = {
    Result.DELIVERED: "",  # no error
    Result.TRY_AGAIN: "unavailable",
    Result.REFUSED: "refused",
    Result.TOO_LARGE: "too_large",
}


class Operations:
    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._by_error: dict[str, ExplicitHistogram] = {}

    def timed(self, request: Callable[[], Attempt]) -> Attempt:
        began_ns = self._clock_ns()
        attempt = request()
        took_ns = self._clock_ns() - began_ns
        with self._lock:
            histogram = self._by_error.setdefault(ERROR_TYPES[attempt.result], ExplicitHistogram(DURATION_BOUNDS_NS))
            histogram.record(took_ns)
        return attempt

    def read(self) -> dict[str, ExplicitHistogram]:
        """By error.type; "" for none."""
        with self._lock:
            return {error: histogram.copy() for error, histogram in self._by_error.items()}
