"""How connections end, with what was under way on them: real sockets, both ends."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_ebpf.exchanges.exchange import Outcome
from tests.kernel.test_exchanges_on_the_wire import COMPLETE, GET, OK, PLAIN, post
from tests.kernel.wire import Expected, Watched, Wire

pytestmark = pytest.mark.kernel

TCP = (socket.AF_INET, socket.AF_INET6)
ANY = (*TCP, socket.AF_UNIX)
TIMED_OUT_408 = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Ending(NamedTuple):
    act: Callable[[Wire], None]
    server: list[Expected]
    client: list[Expected]
    families: tuple[socket.AddressFamily, ...] = ANY

    @property
    def name(self) -> str:
        return self.act.__name__


def until_close(wire: Wire) -> None:
    """RFC 9112 section 6.3, item 8."""
    wire.c(GET)
    wire.s(b"HTTP/1.0 200 OK\r\n\r\n")
    wire.s(b"bye" * 100)
    wire.server_leaves()


def client_leaves(wire: Wire) -> None:
    wire.c(GET)
    wire.client_leaves()


def client_leaves_in_mid_response(wire: Wire) -> None:
    wire.c(GET)
    wire.s(BEGUN)
    wire.client_leaves()


def client_leaves_a_stream(wire: Wire) -> None:
    """Server-sent events have no end of their own."""
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(2):
        wire.s(b"9\r\ndata: %d\n\n\r\n" % number)
    wire.client_leaves()


def stream_left_open(wire: Wire) -> None:
    wire.c(GET)
    wire.s(CHUNKED_HEAD)
    for number in range(3):
        wire.s(b"9\r\ndata: %d\n\n\r\n" % number)


def server_closes_in_mid_response(wire: Wire) -> None:
    wire.c(GET)
    wire.s(BEGUN)
    wire.server_leaves()


def server_closes_without_a_word(wire: Wire) -> None:
    wire.c(GET)
    wire.server_leaves()


def chunks_that_break_off(wire: Wire) -> None:
    wire.c(GET)
    wire.s(CHUNKED_HEAD)
    wire.s(b"a\r\n01234")
    wire.server_leaves()


def reset_in_mid_response(wire: Wire) -> None:
    wire.c(GET)
    wire.s(BEGUN)
    _is_reset(wire)


def reset_without_a_word(wire: Wire) -> None:
    wire.c(GET)
    _is_reset(wire)


def _is_reset(wire: Wire) -> None:
    wire.reset(wire.server)
    try:
        wire.client.recv(10)
    except ConnectionResetError:
        return
    raise AssertionError("the client was not told of the reset")


def half_closed(wire: Wire) -> None:
    """The client says that it will send no more, as `nc -N` does."""
    wire.c(GET)
    wire.client.shutdown(socket.SHUT_WR)
    wire.end_of_stream(wire.server)
    wire.s(OK)


def idle_connection_closed(wire: Wire) -> None:
    wire.c(GET)
    wire.s(OK)
    wire.server_leaves()


def answer_to_nothing(wire: Wire) -> None:
    """RFC 9110 section 15.5.9: a server may send 408 on an idle connection, to no request at all."""
    wire.c(GET)
    wire.s(OK)
    wire.s(TIMED_OUT_408)
    wire.server_leaves()


def nothing_but_a_connection(wire: Wire) -> None:
    wire.server_leaves()


def half_a_head_then_408(wire: Wire) -> None:
    """The server does not wait for the rest."""
    wire.c(b"POST /slow HTTP/1.1\r\nHost: wire\r\nContent-Le")
    wire.s(TIMED_OUT_408)
    wire.server_leaves()


def half_a_head_then_the_end(wire: Wire) -> None:
    wire.c(b"POST /slow HTTP/1.1\r\nHost: wire\r\nContent-Le")
    wire.server_leaves()


def half_a_body_then_408(wire: Wire) -> None:
    wire.c(post(b"/slow", b"u" * 100)[:-91])
    wire.s(TIMED_OUT_408)
    wire.server_leaves()


def half_a_body_then_the_end(wire: Wire) -> None:
    wire.c(post(b"/slow", b"u" * 100)[:-91])
    wire.server_leaves()


def not_http(wire: Wire) -> None:
    wire.c(b"EHLO wire\r\n")
    wire.s(b"250 hello\r\n")
    wire.c(GET)
    wire.s(OK)


def server_speaks_first(wire: Wire) -> None:
    wire.s(b"220 wire ready\r\n")
    wire.c(GET)
    wire.s(OK)


def descriptors_used_again(wire: Wire) -> None:
    """Three connections on the same two numbers, one after the other; the third is left before its answer."""
    numbers = {(wire.client.fileno(), wire.server.fileno())}
    for ending in (Wire.server_leaves, Wire.client_leaves):
        wire.c(GET)
        wire.s(OK)
        ending(wire)
        wire.client.close()
        again = Wire(socket.AF_INET, Path())
        wire.client, wire.server = again.client, again.server
        numbers.add((wire.client.fileno(), wire.server.fileno()))
    wire.c(GET)
    wire.client_leaves()
    assert 1 == len(numbers)


def found(status: int | None, size: int | None, outcome: Outcome) -> Expected:
    return (b"GET", b"/a", status, 0, size, outcome)


def both(act: Callable[[Wire], None], *expected: Expected) -> Ending:
    return Ending(act, list(expected), list(expected))


CASES = [
    both(until_close, found(200, 300, COMPLETE)),
    both(client_leaves, found(None, None, Outcome.CLIENT_CLOSED)),
    both(client_leaves_in_mid_response, found(200, 3, Outcome.CLIENT_CLOSED)),
    both(client_leaves_a_stream, found(200, 18, Outcome.CLIENT_CLOSED)),
    both(server_closes_in_mid_response, found(200, 3, Outcome.SERVER_CLOSED)),
    both(server_closes_without_a_word, found(None, None, Outcome.SERVER_CLOSED)),
    both(chunks_that_break_off, found(200, 5, Outcome.SERVER_CLOSED)),
    Ending(reset_in_mid_response, [found(200, 3, Outcome.SERVER_CLOSED)], [found(200, 3, Outcome.RESET)], families=TCP),
    Ending(
        reset_without_a_word,
        [found(None, None, Outcome.SERVER_CLOSED)],
        [found(None, None, Outcome.RESET)],
        families=TCP,
    ),
    both(half_closed, PLAIN),
    both(idle_connection_closed, PLAIN),
    both(answer_to_nothing, PLAIN),
    both(nothing_but_a_connection),
    both(half_a_head_then_408, (b"POST", b"/slow", 408, None, 0, COMPLETE)),
    both(half_a_head_then_the_end, (b"POST", b"/slow", None, None, None, Outcome.SERVER_CLOSED)),
    both(half_a_body_then_408, (b"POST", b"/slow", 408, 9, 0, COMPLETE)),
    both(half_a_body_then_the_end, (b"POST", b"/slow", None, 9, None, Outcome.SERVER_CLOSED)),
    both(not_http),
    both(server_speaks_first),
    both(descriptors_used_again, PLAIN, PLAIN, found(None, None, Outcome.CLIENT_CLOSED))._replace(families=TCP[:1]),
]


@pytest.mark.parametrize(
    ("case", "family"),
    [
        pytest.param(case, family, id=f"{case.name}-{family.name}")
        for case in CASES
        for family in ANY
        if family in case.families
    ],
)
def test_what_was_under_way_when_a_connection_ended_is_what_is_reported(
    case: Ending, family: socket.AddressFamily, watched: Watched, tmp_path: Path
):
    with closing(Wire(family, tmp_path)) as wire:
        case.act(wire)

        watched.expect(*case.server, client=case.client)


def test_a_stream_that_is_still_open_is_given_no_end(wire: Wire, watched: Watched):
    stream_left_open(wire)

    watched.expect()
    assert 2 == watched.assembler.open_count
