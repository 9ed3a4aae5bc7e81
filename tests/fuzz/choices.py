"""What a fuzzer's bytes decide: small numbers, one of several, some bytes. Behind their end all is zero or empty."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")


class Choices:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def are_left(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def number(self, size_bytes: int = 1) -> int:
        return int.from_bytes(self.take(size_bytes), "little")

    def one_of(self, items: Sequence[Item]) -> Item:
        return items[self.number() % len(items)]

    def some_bytes(self) -> bytes:
        return self.take(self.number())

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def pieces(self, data: bytes) -> list[bytes]:
        """`data` cut in up to sixteen places, or at each byte."""
        count = self.number() % 18
        if count == 17:
            return [data[at : at + 1] for at in range(len(data))]
        cuts = sorted({self.number(2) % (len(data) + 1) for _ in range(count)} | {0, len(data)})
        return [data[start:end] for start, end in pairwise(cuts)]
