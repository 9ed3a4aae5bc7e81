"""Which exchange caused which: the rules one by one, in every order in which records may come."""

from collections.abc import Iterable
from itertools import permutations

import pytest

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.exchanges.kin import ParentState
from otel_ebpf.exchanges.kinship import MAX_RECENT, Parents
from otel_ebpf.records.kinds import LINK_MAY_ERR, EndReason, Kind, LinkEvidence, Record, RecordFlag
from tests.unit.exchanges.linked import AF_INET6, AF_UNIX, MAPPED, Call, Wire

FROM_BEGINNING, TLS = RecordFlag.ROLE_BY_CONNECTION, RecordFlag.TLS
LOOPBACK_6 = bytes(15) + b"\x01"
ELSEWHERE = bytes((10, 0, 0, 9)).ljust(16, b"\0")
HERE = bytes((10, 0, 0, 1)).ljust(16, b"\0")


def fed(records: Iterable[Record], assembler: Assembler | None = None) -> dict[tuple[Role, int, int], Exchange]:
    assembler = assembler or Assembler()
    done = assembler.feed_all(list(records))
    return {(exchange.role, exchange.connection, exchange.position): exchange for exchange in done}


def parent_of(exchange: Exchange) -> tuple[int, int] | None:
    return None if exchange.link is None else (exchange.link.parent.connection, exchange.link.parent.number)


def server_of(call: Call, records: Iterable[Record], assembler: Assembler | None = None) -> Exchange:
    return fed(records, assembler)[(Role.SERVER, *call.server)]


def whole(call: Call) -> list[Record]:
    return [call.asked, call.read, call.answered, call.heard]


def refused(assembler: Assembler) -> dict[str, int]:
    assert assembler.kinship is not None
    return dict(assembler.kinship.refused)


WIRES = {
    "plain": Wire(1, 2),
    "plain, older than the agent": Wire(1, 2, flags=0),
    "TLS": Wire(1, 2, flags=FROM_BEGINNING | TLS),
    "Unix": Wire(1, 2, client_family=AF_UNIX, server_family=AF_UNIX),
    "IPv6": Wire(1, 2, 40000, 8080, LOOPBACK_6, LOOPBACK_6, AF_INET6, AF_INET6),
    "two hosts' addresses on this host": Wire(1, 2, client_address=ELSEWHERE, server_address=HERE),
    "two network namespaces": Wire(1, 2, client_address=ELSEWHERE, server_address=HERE, server_namespace=2),
}


@pytest.mark.parametrize("name", WIRES)
def test_a_servers_exchange_is_the_child_of_the_clients_at_the_other_end(name: str) -> None:
    wire = WIRES[name]
    calls = [wire.call(f"/{number}") for number in range(3)]

    found = fed(record for call in calls for record in whole(call))

    for call in calls:
        server = found[(Role.SERVER, *call.server)]
        assert call.client == parent_of(server)
        assert server.link is not None
        assert (LinkEvidence.CONNECTION, ParentState.OPEN) == server.link[1:]
        assert parent_of(found[(Role.CLIENT, *call.client)]) is None


def test_ipv4_and_mapped_addresses_are_the_same() -> None:
    """One end has an IPv6 socket, the other an IPv4 one."""
    call = Wire(1, 2).call()
    mapped = call.read._replace(family=AF_INET6, local_address=MAPPED, remote_address=MAPPED)

    assert call.client == parent_of(server_of(call, [call.asked, mapped, call.answered, call.heard]))


def orders(call: Call) -> list[list[Record]]:
    """Every one that can be: who answers has read, who hears has asked and been answered."""
    named = {"asked": call.asked, "read": call.read, "answered": call.answered, "heard": call.heard}
    return [
        [named[name] for name in order]
        for order in permutations(named)
        if order.index("read") < order.index("answered") < order.index("heard")
        and order.index("asked") < 3
        and order.index("asked") < order.index("heard")
    ]


@pytest.mark.parametrize("name", ["plain", "TLS", "Unix"])
@pytest.mark.parametrize("which", range(3))
def test_records_may_come_in_any_order_that_can_be(name: str, which: int) -> None:
    """A client that is held up in its call may be heard of when the server has answered."""
    wire = WIRES[name]
    wire.calls, wire.is_caller_watched = 0, True
    call = wire.call()

    assert call.client == parent_of(server_of(call, orders(call)[which]))
    assert 3 == len(orders(call))


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_client_is_waited_for_only_where_the_kernel_knows_it(is_watched: bool) -> None:
    call = Wire(1, 2, is_caller_watched=is_watched).call()

    kin = server_of(call, [call.read, call.answered]).kin
    assert is_watched == (kin is not None and kin.is_awaited)


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 999},
        {"remote_port": 40001},
        {"local_port": 8081},
        {"remote_address": ELSEWHERE},
        {"local_address": ELSEWHERE},
        {"network_namespace": 2},
        {"network_namespace": 0},
        {"flags": FROM_BEGINNING | TLS},
    ],
)
def test_one_difference_between_the_ends_and_they_are_of_two_connections(changes: dict[str, int]) -> None:
    call = Wire(1, 2).call()
    read = call.read._replace(**changes)  # type: ignore[arg-type]

    found = fed([call.asked, read, call.answered, call.heard])
    assert parent_of(found[(Role.SERVER, *call.server)]) is None
    again = fed([read, call.answered, call.asked, call.heard])
    assert parent_of(again[(Role.SERVER, *call.server)]) is None


def test_a_pair_of_ports_that_is_used_again_is_another_connection() -> None:
    """The client of the first one was never answered, and its request asked for the same."""
    first, second = Wire(1, 2), Wire(3, 4, first_sequence=9000)
    lost, call = first.call(), second.call()
    closed = lost.asked._replace(kind=Kind.END, reason=EndReason.CLOSED, payload=b"", captured_bytes=0, total_bytes=0)

    found = fed([lost.asked, closed, *whole(call)])

    assert call.client == parent_of(found[(Role.SERVER, *call.server)])


def test_on_tls_the_number_of_the_request_counts_too() -> None:
    """The sequence is that of the connection; the second request's record of the client is late."""
    wire = Wire(1, 2, flags=FROM_BEGINNING | TLS, is_caller_watched=True)
    first, second = wire.call("/a"), wire.call("/a")

    found = fed([*whole(first), second.read, second.answered, second.asked, second.heard])

    assert second.client == parent_of(found[(Role.SERVER, *second.server)])
    assert first.client == parent_of(found[(Role.SERVER, *first.server)])


@pytest.mark.parametrize("flags", [TLS])
def test_tls_that_is_older_than_the_agent_is_not_linked(flags: int) -> None:
    """Neither end knows how many requests there were."""
    call = Wire(1, 2, flags=flags).call()

    assert parent_of(server_of(call, whole(call))) is None


def test_a_client_that_asks_for_something_else_is_not_the_sender() -> None:
    wire = Wire(1, 2)
    call = wire.call("/a")
    other = call.asked._replace(payload=call.request.replace(b"/a", b"/b"))

    assert parent_of(server_of(call, [other, call.read, call.answered])) is None


def test_a_request_sent_behind_another_one_is_linked_with_nothing() -> None:
    """Two in one call: the kernel has one position for both."""
    wire = Wire(1, 2)
    call = wire.call("/a")
    both = call.request + call.request.replace(b"/a", b"/b")
    long = {"payload": both, "captured_bytes": len(both), "total_bytes": len(both), "request_bytes": len(both)}
    below = Wire(3, 4, client_port=9).call(parent=call.server)

    assembler = Assembler()
    found = fed([call.asked._replace(**long), call.read._replace(**long), *whole(below)], assembler)  # type: ignore[arg-type]

    assert parent_of(found[(Role.CLIENT, *below.client)]) is None
    assert {"pipelined": 2} == refused(assembler)


def nested(state: ParentState) -> tuple[list[Record], Call, Call]:
    """A call under another one, begun when that was in this state."""
    outer = Wire(1, 2, client_address=ELSEWHERE).call()
    inner = Wire(3, 4, client_port=9, server_port=9090).call(parent=outer.server)
    answered = outer.answered
    if state is ParentState.ANSWERING:
        body = answered.payload.replace(b"Length: 0", b"Length: 9")
        answered = answered._replace(payload=body, tail=body[-8:])
    before = [outer.read] if state is ParentState.OPEN else [outer.read, answered]
    return [*before, *whole(inner), *([outer.answered] if state is ParentState.OPEN else [])], outer, inner


@pytest.mark.parametrize("state", ParentState)
@pytest.mark.parametrize("parents", Parents)
def test_a_clients_request_is_the_child_of_what_the_kernel_says(state: ParentState, parents: Parents) -> None:
    """Strict: only while nothing of the parent's response has moved."""
    records, outer, inner = nested(state)

    found = fed(records, Assembler(parents=parents))[(Role.CLIENT, *inner.client)]

    is_linked = parents is Parents.NORMAL or (parents is Parents.STRICT and state is ParentState.OPEN)
    assert (outer.server if is_linked else None) == parent_of(found)
    if found.link is not None:
        assert (LinkEvidence.CONTEXT, state) == found.link[1:]


@pytest.mark.parametrize(
    ("evidence", "parents", "expected"),
    [
        (LinkEvidence.THREAD, Parents.NORMAL, False),
        (LinkEvidence.CONTEXT, Parents.NORMAL, True),
        (LinkEvidence.CONTEXT | LINK_MAY_ERR, Parents.NORMAL, True),
        (LinkEvidence.HANDLER, Parents.NORMAL, True),
    ],
)
def test_a_thread_says_nothing_of_what_it_does_behind_its_answer(
    evidence: int, parents: Parents, expected: bool
) -> None:
    outer = Wire(1, 2, client_address=ELSEWHERE).call()
    inner = Wire(3, 4, client_port=9).call(parent=outer.server, evidence=evidence)

    found = fed([outer.read, outer.answered, *whole(inner)], Assembler(parents=parents))

    assert expected == (found[(Role.CLIENT, *inner.client)].link is not None)


@pytest.mark.parametrize(
    "evidence",
    [
        LinkEvidence.HANDLER,
        LinkEvidence.PROCESS,
        LinkEvidence.CALLBACK,
        LinkEvidence.CONTEXT | LINK_MAY_ERR,
        LinkEvidence.EXECUTOR | LINK_MAY_ERR,
    ],
)
def test_strict_leaves_out_what_may_be_anothers_by_now(evidence: int) -> None:
    outer = Wire(1, 2, client_address=ELSEWHERE).call()
    inner = Wire(3, 4, client_port=9).call(parent=outer.server, evidence=evidence)
    assembler = Assembler(parents=Parents.STRICT)

    found = fed([outer.read, *whole(inner)], assembler)

    assert found[(Role.CLIENT, *inner.client)].link is None
    assert {"may be another's by now": 1} == refused(assembler)


def test_off_links_nothing_and_keeps_nothing() -> None:
    assembler = Assembler(parents=Parents.OFF)
    call = Wire(1, 2).call()

    assert server_of(call, whole(call), assembler).kin is None
    assert assembler.kinship is None


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_parent_that_has_ended_is_found_when_its_connection_has_gone_on_or_is_closed(is_closed: bool) -> None:
    outer = Wire(1, 2, client_address=ELSEWHERE)
    first, second = outer.call("/1"), outer.call("/2")
    calling = Wire(5, 6, client_port=7)  # a service that calls others is known by its first call
    inner = Wire(3, 4, client_port=9).call(parent=first.server)
    end = second.answered._replace(kind=Kind.END, reason=EndReason.CLOSED, payload=b"", captured_bytes=0, total_bytes=0)
    after = [end] if is_closed else []

    found = fed(
        [*whole(calling.call()), first.read, first.answered, second.read, second.answered, *after, *whole(inner)]
    )[(Role.CLIENT, *inner.client)]

    assert first.server == parent_of(found)
    assert found.link is not None
    assert ParentState.ENDED is found.link.state


@pytest.mark.parametrize("parent", [(99, 0), (2, 1), (1, 0)])
def test_a_parent_that_is_not_known_or_no_server_is_none(parent: tuple[int, int]) -> None:
    """Another connection, another position, a client's exchange."""
    outer = Wire(1, 2).call()
    inner = Wire(3, 4, client_port=9).call(parent=parent)
    assembler = Assembler()

    found = fed([outer.asked, outer.read, *whole(inner)], assembler)

    assert parent_of(found[(Role.CLIENT, *inner.client)]) is None
    assert 1 == sum(refused(assembler).values())


def test_two_children_of_one_exchange_share_its_kin() -> None:
    outer = Wire(1, 2, client_address=ELSEWHERE).call()
    inner = [Wire(3 + 2 * n, 4 + 2 * n, client_port=n).call(parent=outer.server) for n in range(2)]

    found = fed([outer.read, *whole(inner[0]), *whole(inner[1]), outer.answered])

    links = [found[(Role.CLIENT, *call.client)].link for call in inner]
    parent = found[(Role.SERVER, *outer.server)].kin
    assert [parent, parent] == [link.parent for link in links if link is not None]
    assert parent is not None
    assert parent.is_over


def test_a_head_in_pieces_is_linked_by_its_first_byte() -> None:
    call = Wire(1, 2).call("/long", headers="traceparent: 00-" + "1" * 32 + "-" + "2" * 16 + "-01\r\n")
    cut = 10

    def pieces(record: Record) -> list[Record]:
        first = record._replace(payload=record.payload[:cut], captured_bytes=cut, total_bytes=cut, request_bytes=cut)
        rest = record.payload[cut:]
        more = record._replace(
            kind=Kind.REQUEST_MORE, payload=rest, captured_bytes=len(rest), total_bytes=len(rest), sequence=0
        )
        return [first, more]

    asked, read = pieces(call.asked), pieces(call.read)
    found = fed([asked[0], read[0], asked[1], read[1], call.answered, call.heard])

    server = found[(Role.SERVER, *call.server)]
    assert call.client == parent_of(server)
    assert server.kin is not None
    assert server.kin.trace_headers is not None
    assert server.traceparent == server.kin.trace_headers.traceparent is not None
    assert server.link is not None
    assert server.link.parent.trace_headers == server.kin.trace_headers


def test_what_is_kept_of_requests_whose_other_end_is_not_seen_is_bounded() -> None:
    assembler = Assembler(max_connections=4)
    kinship = assembler.kinship
    assert kinship is not None
    for number in range(3 * MAX_RECENT):
        wire = Wire(2 * number, 2 * number + 1, first_sequence=1 + 100 * number)
        call = wire.call()
        assembler.feed_all([call.asked if number % 2 else call.read])
    sizes = [len(recent.young) + len(recent.old) for recent in (kinship._clients, kinship._servers, kinship._past)]
    assert max(sizes) <= 2 * MAX_RECENT + 128
