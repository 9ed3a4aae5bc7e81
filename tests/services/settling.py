"""Lets a watch of the probe find out what there is to find out, as the watcher does.

In:   a watch
Out:  nothing; nobody waits for its inspector any more
Owns: nothing
"""

import select
from collections.abc import Iterable
from typing import Protocol

_SECONDS_TO_INSPECT = 60.0


class Watch(Protocol):
    def fileno(self) -> int: ...
    def look_at(self, pid: int) -> None: ...
    def inspect(self) -> None: ...
    def on_answer(self) -> Iterable[int] | None: ...
    def forget(self, pid: int) -> None: ...
    def tick(self) -> object: ...
    def close(self) -> None: ...


def settle(watch: Watch) -> None:
    watch.inspect()
    while (answer := watch.fileno()) >= 0:
        assert select.select([answer], [], [], _SECONDS_TO_INSPECT)[0], "the inspector has no answer"
        for pid in watch.on_answer() or ():
            watch.look_at(pid)
        watch.inspect()
