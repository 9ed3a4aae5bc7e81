"""Turns many attempts into few messages: one when the collector's state has changed.

In:   attempts
Out:  what to say, if anything
Owns: what was said last, and when
"""

from otel_ebpf.export.attempts import Attempt, Result

QUIET_SECONDS = 10.0  # between messages, for a collector that comes and goes

_WORDS = {
    Result.TRY_AGAIN.value: "takes no spans now",
    Result.REFUSED.value: "refuses spans",
    Result.TOO_LARGE.value: "refuses large spans",
    "partly": "rejects some spans",
}


class CollectorState:
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
        if attempt.result in (Result.REFUSED, Result.TOO_LARGE):
            return f"the collector at {self._endpoint} refuses spans: {attempt.detail}. They are counted as rejected."
        return (
            f"the collector at {self._endpoint} takes no spans: {attempt.detail}. "
            f"Trying again; up to {self._queue_bytes // 1024} KiB of spans are kept meanwhile."
        )
