"""Runs a Node service whose requests cause others: calling.py for calling_node.js.

In:   which Node, and how it runs
Out:  the running service
Owns: the processes, as long as the context lasts
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.calling import SERVICES, CallingService, calling_and_called
from tests.services.servers import program

# What callbacks are told by their numbers alone.
NODE_BY_NUMBERS = ("direct", "timer", "emitter")
NODE_AWAITING = (
    *("await", "promise", "parallel", "nested", "caught", "forgotten", "events", "streamed"),
    *("fetch", "fetch-all"),
)
# What is called back in more steps than one, behind another one's answer, or behind its own; and what lives on.
NODE_OTHERS = (
    *("timers", "tick", "stream", "ended", "microtask", "file"),
    *("shared", "chained", "pool", "pool-told", "worker", "late"),
)
NODE_KINDS = (*NODE_BY_NUMBERS, *NODE_AWAITING, *NODE_OTHERS)
_CALLS = {
    **dict.fromkeys(NODE_KINDS, 1),
    **dict.fromkeys(("direct", "chained", "await", "promise", "nested", "caught", "events", "streamed", "fetch"), 2),
    **dict.fromkeys(("parallel", "fetch-all"), 3),
}


@contextmanager
def node_calling_service(
    folder: Path, node: str = "", arguments: tuple[str, ...] = (), *, speaks_tls: bool = False, **variables: str
) -> Iterator[CallingService]:
    script = str(SERVICES / "calling_node.js")
    calling = [node or program("node"), *arguments, script, "{port}"]
    called = [sys.executable, str(SERVICES / "calling_app.py"), "called", "{port}"]
    with calling_and_called(calling, called, folder, speaks_tls=speaks_tls, **variables) as (process, port):
        yield CallingService(process, port, NODE_KINDS, speaks_tls, _CALLS)
