"""Runs a Go service whose requests cause others: calling.py for the programs of go_calling/.

In:   what it serves and calls by, how it is built
Out:  the running service
Owns: the processes, as long as the context lasts
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.calling import SERVICES, CallingService, calling_and_called
from tools.go_build import PLAIN, Kind, build

# What of it is certain from the first request on, by its goroutine or by the context that it is sent with, what is once
# its goroutines are known, and what never is.
GO_BY_ITSELF = ("sequence", "post", "proxy")
GO_BY_GOROUTINES = ("fanout", "nested", "timeout", "errgroup")
GO_BY_CONTEXT = ("pool-context", "lazy-context", "after-context")
GO_UNKNOWN = ("pool", "lazy", "grow", "after", "outlives")
GO_SWAP = "swap"  # what a request starts does another one's work, if the two are asked for together as a pair
_CALLS = {
    "sequence": 2,
    "post": 1,
    "proxy": 1,
    "fanout": 3,
    "nested": 1,
    "timeout": 2,
    "errgroup": 3,
    **dict.fromkeys((*GO_BY_CONTEXT, *GO_UNKNOWN, GO_SWAP), 1),
}
NET_HTTP = "net/http"
GO_SERVERS = (
    NET_HTTP,
    "gin",
    "chi",
    "echo",
    "fasthttp",
    "fasthttp+fasthttp",
)  # what serves, and calls if that is another
_LACKS = {NET_HTTP: ("errgroup",), "fasthttp": ("proxy", "timeout")}


@contextmanager
def go_calling_service(
    folder: Path, kind: Kind = PLAIN, server: str = NET_HTTP, *, speaks_tls: bool = False, **variables: str
) -> Iterator[CallingService]:
    """One of GO_SERVERS."""
    served_by, _, client = server.partition("+")
    program = str(build(SERVICES / "go_calling", kind))
    calling = [program, "{port}"]
    if served_by != NET_HTTP:
        calling = [str(build(SERVICES / "go_calling", kind, "./frameworks")), served_by, "{port}"]
    kinds = tuple(name for name in _CALLS if name not in (GO_SWAP, *_LACKS.get(served_by, ())))
    commands = calling, [program, "called", "{port}"]
    with calling_and_called(*commands, folder, speaks_tls=speaks_tls, CLIENT=client, **variables) as (process, port):
        yield CallingService(process, port, kinds, speaks_tls, _CALLS)


def kinds_named(names: str) -> list[Kind]:
    """`go1.21.13,go1.27.4-pie`: as OTEL_EBPF_TEST_GO has them."""
    return [Kind(name.removesuffix("-pie"), name.endswith("-pie")) for name in names.split(",") if name]
