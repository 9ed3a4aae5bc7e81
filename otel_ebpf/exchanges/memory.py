"""Which runs give way when what they keep of their heads is too much.

In:   runs
Out:  the largest of them, as many as it takes
Owns: nothing

How much a connection keeps is up to its peer: a head may have 64 KB and come in pieces, a client may send a thousand
requests before it reads an answer. The largest go first, which are hardly those of ordinary clients.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

MAX_KEPT_BYTES = 32 << 20  # of all connections
LOOK_EVERY_BYTES = 8 << 20  # captured since the last look


class Keeping(Protocol):
    @property
    def kept_bytes(self) -> int: ...


Kept = TypeVar("Kept", bound=Keeping)


def runs_to_drop(runs: Iterable[Kept], max_bytes: int) -> list[Kept]:
    """Behind the look a quarter is free, so that the next one is not due at once."""
    kept = [(run.kept_bytes, index, run) for index, run in enumerate(runs)]
    total = sum(size for size, _, _ in kept)
    dropped: list[Kept] = []
    if total > max_bytes:
        kept.sort(reverse=True)
        for size, _, run in kept:
            dropped.append(run)
            total -= size
            if total <= max_bytes * 3 // 4:
                break
    return dropped
