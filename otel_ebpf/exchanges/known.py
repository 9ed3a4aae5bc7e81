"""What has come more than once, so that it is not read again.

In:   bytes of the wire, and what was made of them
Out:  the same, for the same bytes
Owns: a bounded number of both

What comes once is only counted by its hash: heads with a trace context or an id of their own would push out the others.
"""

from typing import Generic, TypeVar

T = TypeVar("T")


class Known(Generic[T]):
    __slots__ = ("_limit", "_seen_once", "get", "made")

    def __init__(self, limit: int) -> None:
        self.made: dict[bytes, T] = {}
        self.get = self.made.get
        self._seen_once: set[int] = set()
        self._limit = limit

    def offer(self, key: bytes, made: T) -> None:
        """Kept when it is not the first time."""
        number = hash(key)
        if number in self._seen_once:
            if len(self.made) >= self._limit:
                self.made.clear()
            self.made[key] = made
        else:
            if len(self._seen_once) >= 4 * self._limit:
                self._seen_once.clear()
            self._seen_once.add(number)
