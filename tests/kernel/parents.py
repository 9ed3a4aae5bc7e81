"""Which request is told to be the parent of which, by the paths of both.

In:   the records of watched programs
Out:  {path of a client's request: path of its parent, or None}; how sure each is
Owns: nothing
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from threading import Thread
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.records.kinds import LINK_MAY_ERR, Kind, Record
from tests.kernel.wire import Watched

REQUEST = b"GET %s HTTP/1.1\r\nHost: shop\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Parent(NamedTuple):
    path: str
    evidence: int


def _paths(records: Iterable[Record]) -> dict[tuple[int, int], str]:
    heads = defaultdict[tuple[int, int], bytes](bytes)
    for record in records:
        if record.kind in (Kind.REQUEST, Kind.REQUEST_MORE):  # Go reads the first byte alone
            heads[record.connection, record.position] += record.payload
    return {exchange: head.split(b" ", 2)[1].decode() for exchange, head in heads.items() if head.count(b" ") > 1}


def parents(records: Iterable[Record]) -> dict[str, Parent | None]:
    """Of all that clients have sent. A parent that no record tells of is wrong: "?"."""
    records = list(records)
    paths, found = _paths(records), dict[str, Parent | None]()
    for record in records:
        path = paths.get((record.connection, record.position))
        if record.kind == Kind.REQUEST and record.role == Role.CLIENT and path is not None:
            parent = paths.get((record.parent_connection, record.parent_position), "?")
            found[path] = Parent(parent, record.link_evidence) if record.parent_evidence else None
    return found


def may_err(records: Iterable[Record]) -> set[str]:
    """Those whose parent the kernel does not vouch for."""
    records = list(records)
    paths = _paths(records)
    return {
        paths.get((record.connection, record.position), "?")
        for record in records
        if record.kind == Kind.REQUEST and record.parent_evidence & LINK_MAY_ERR
    }


def parents_seen(watched: Watched, count: int) -> dict[str, Parent | None]:
    """Waits until so many requests of clients are told of."""
    watched.until(lambda _: len(parents(watched.records)) >= count)
    return parents(watched.records)


def calls_of(watched: Watched, caused: dict[str, str]) -> dict[str, Parent | None]:
    """Waits until each of these calls is told of, as each must be. `caused`: the path of each, with its parent's."""
    watched.until(lambda _: caused.keys() <= parents(watched.records).keys())
    found = {path: parent for path, parent in parents(watched.records).items() if path in caused}
    untold = sorted(caused.keys() - found.keys())
    assert not untold, f"{untold} of {len(caused)} were not told of; {watched.losses()}"
    return found


def in_a_thread(scene: Callable[[], None]) -> None:
    """What a thread had in hand before is no part of the scene."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            scene()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
