"""Which reading of the progress table may be believed of a run.

In:   readings of one run, one or more at each look
Out:  the reading to go by, or None: not yet
Owns: the last reading of the look before

The table is read while records still wait in the ring, so it may tell of bytes whose record, with a head in it, is yet
to be read. Such bytes are no gap. The kernel sends a record before the table tells of its bytes: all that the table
told at one look has been read from the ring by the next one, and what no record has explained by then none will.
"""

from typing import Protocol

from otel_ebpf.records.progress import Progress


class Guessing(Protocol):
    """A run, as far as it is needed here."""

    def would_guess(self, progress: Progress) -> bool: ...


class Readings:
    __slots__ = ("_before", "_latest", "_look_ns")

    def __init__(self) -> None:
        self._before: Progress | None = None
        self._latest: Progress | None = None
        self._look_ns = -1

    def believed(self, run: Guessing, progress: Progress, now_ns: int) -> Progress | None:
        """`now_ns` says which look this is."""
        if now_ns != self._look_ns:
            self._before, self._latest, self._look_ns = self._latest, progress, now_ns
        if not run.would_guess(progress):
            return progress
        return self._before if self._before is not None and run.would_guess(self._before) else None
