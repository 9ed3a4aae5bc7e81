"""The newest of many things, each found by its number.

In:   things that may be asked for soon, or never
Out:  those of the last two generations
Owns: two tables. When the young one is full it is the old one, and what was in that is forgotten: nothing is done for each
      thing that leaves
"""

from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    __slots__ = ("_limit", "forgotten", "old", "young")

    def __init__(self, limit: int) -> None:
        self.young: dict[int, V] = {}
        self.old: dict[int, V] = {}
        self.forgotten = 0
        self._limit = limit

    def get(self, key: int) -> V | None:
        found = self.young.get(key)
        return self.old.get(key) if found is None else found

    def pop(self, key: int) -> V | None:
        found = self.young.pop(key, None)
        return self.old.pop(key, None) if found is None else found

    def age(self) -> None:
        """To be called now and then."""
        if len(self.young) >= self._limit:
            self.forgotten += len(self.old)
            self.old, self.young = self.young, {}
