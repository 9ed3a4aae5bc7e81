"""Turns many attempts into few messages: one when the collector's state has changed.

In:   attempts
Out:  what to say, if anything
Owns: what was said last, and when
"""

from typing import NamedTuple

from otel_ebpf.export.attempts import Attempt, Result

QUIET_SECONDS = 10.0  # between messages, for a collector that comes and goes

_WORDS = {
    Result.TRY_AGAIN.value: "takes no {} now",
    Result.REFUSED.value: "refuses {}",
    Result.TOO_LARGE.value: "refuses large {}",
    "partly": "rejects some {}",
}


class SignalWords(NamedTuple):
    """What is said of one signal."""

    items: str
    kept: str  # what becomes of what is not taken
    refused: str


class CollectorState:
    def __init__(self, endpoint: str, words: SignalWords) -> None:
        self._endpoint = endpoint
        self._words = words
        self.last = "nothing was sent yet"  # how the newest attempt ended, for people
        self._reported = "well"
        self._complained_at = float("-inf")
        self._ill_since = 0.0
        self._dropped_before = 0

    def message(self, attempt: Attempt, now: float, dropped: int, on_disk: int = 0) -> str | None:
        """What to say after this attempt, None when nothing is new or the last complaint is a moment old."""
        state = "well" if attempt.result is Result.DELIVERED else attempt.result.value
        if attempt.rejected:
            state = "partly"
        items = self._words.items
        told = _WORDS.get(state, "takes {}").format(items)
        self.last = told if state == "well" else told + (attempt.detail and f": {attempt.detail}")
        before = self._reported
        if state == before or (state != "well" and now < self._complained_at + QUIET_SECONDS):
            return None
        self._reported = state
        if state == "well":
            lost, self._dropped_before = dropped - self._dropped_before, dropped
            if before == "partly":
                return None
            seconds = now - self._ill_since
            follow = f", {on_disk} follow from the disk" if on_disk else ""
            meanwhile = f"; {lost} were dropped meanwhile{follow}" if items == "spans" else ""
            return f"the collector at {self._endpoint} takes {items} again after {seconds:.0f} s{meanwhile}."
        self._complained_at = now
        if before == "well":
            self._ill_since = now
        if state == "partly":
            count = attempt.rejected
            return f"the collector at {self._endpoint} rejects {items} ({count} of a batch): {attempt.detail}"
        if attempt.result in (Result.REFUSED, Result.TOO_LARGE):
            return f"the collector at {self._endpoint} refuses {items}: {attempt.detail}. {self._words.refused}"
        return f"the collector at {self._endpoint} takes no {items}: {attempt.detail}. Trying again; {self._words.kept}"
