"""Totals as differences: what a collector has been told is taken off, once it has taken it.

In:   totals, by any key; whether what was told was taken
Out:  differences, and when each began
Owns: what was told last
"""

from collections.abc import Hashable

_KEPT_EXPORTS = 3  # a total that nobody asks for so long is forgotten


class Differences:
    def __init__(self) -> None:
        self._export = 0
        self._told: dict[Hashable, tuple[float, int]] = {}  # total, when
        self._offered: dict[Hashable, tuple[float, int]] = {}
        self._asked: dict[Hashable, int] = {}  # in which export

    def begin_export(self) -> None:
        self._export += 1
        for key, export in list(self._asked.items()):
            if export < self._export - _KEPT_EXPORTS:
                del self._asked[key]
                self._told.pop(key, None)

    def of(self, key: Hashable, total: float, start_unix_ns: int, now_unix_ns: int) -> tuple[float, int]:
        """A total that has become less has begun anew."""
        self._asked[key] = self._export
        self._offered[key] = total, now_unix_ns
        before, since_unix_ns = self._told.get(key, (0, start_unix_ns))
        return (total, since_unix_ns) if total < before else (total - before, since_unix_ns)

    def were_taken(self) -> None:
        self._told.update(self._offered)
        self._offered.clear()

    def were_not_taken(self) -> None:
        """They will be part of the next ones."""
        self._offered.clear()
