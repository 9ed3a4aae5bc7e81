"""Runs a Go service whose requests cause others: calling.py for go_calling/main.go.

In:   how it is built
Out:  the running service
Owns: the processes, as long as the context lasts
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.calling import SERVICES, CallingService, calling_and_called
from tools.go_build import PLAIN, Kind, build

# What of it is certain from the first request on, what is once its goroutines are known, and what never is.
GO_BY_ITSELF, GO_BY_GOROUTINES = ("sequence", "post", "proxy"), ("fanout", "nested", "timeout")
GO_UNKNOWN = ("pool", "lazy", "after", "outlives")
GO_KINDS = (*GO_BY_ITSELF, *GO_BY_GOROUTINES, *GO_UNKNOWN)
_CALLS = {"sequence": 2, "post": 1, "proxy": 1, "fanout": 3, "nested": 1, "timeout": 2, **dict.fromkeys(GO_UNKNOWN, 1)}


@contextmanager
def go_calling_service(
    folder: Path, kind: Kind = PLAIN, *, speaks_tls: bool = False, **variables: str
) -> Iterator[CallingService]:
    program = str(build(SERVICES / "go_calling", kind))
    commands = [program, "{port}"], [program, "called", "{port}"]
    with calling_and_called(*commands, folder, speaks_tls=speaks_tls, **variables) as (process, port):
        yield CallingService(process, port, GO_KINDS, speaks_tls, _CALLS)
