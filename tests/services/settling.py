"""Lets a watch of the probe find out what there is to find out, as the watcher does.

In:   a watch
Out:  nothing; nobody waits for its inspector any more
Owns: nothing
"""

import select

from otel_ebpf.probe.watcher import Watch

_SECONDS_TO_INSPECT = 60.0


def settle(watch: Watch) -> None:
    watch.inspect()
    while (answer := watch.fileno()) >= 0:
        assert select.select([answer], [], [], _SECONDS_TO_INSPECT)[0], "the inspector has no answer"
        for pid in watch.on_answer() or ():
            watch.look_at(pid)
        watch.inspect()
