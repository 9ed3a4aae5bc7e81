"""What is captured: each case moves bytes between two sockets, and says what must be reported of it.

The cases of tests/kernel/test_exchanges_on_the_wire.py and test_hard_http1.py, those that end with a connection, and what
makes a replay hard.
"""

import re
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Outcome, Role
from tests.kernel.test_exchanges_on_the_wire import CASES as WIRE_CASES
from tests.kernel.test_exchanges_on_the_wire import COMPLETE, GET, OK, PLAIN, Expected, post
from tests.kernel.test_hard_http1 import CASES as HARD_CASES
from tests.kernel.test_hard_http1 import METHODS, get, plain
from tests.kernel.test_heads import long_request
from tests.kernel.wire import Wire


class Case(NamedTuple):
    name: str
    act: Callable[[Wire], None]
    server: list[Expected]
    client: list[Expected]

    def expected(self, role: Role) -> list[Expected]:
        return self.server if role is Role.SERVER else self.client


def until_close(wire: Wire) -> None:
    """RFC 9112 section 6.3, item 8."""
    wire.c(GET)
    wire.s(b"HTTP/1.0 200 OK\r\n\r\n")
    wire.s(b"bye" * 100)
    wire.server.close()
    wire.end_of_stream(wire.client)


def client_leaves(wire: Wire) -> None:
    wire.c(GET)
    wire.client.close()
    wire.end_of_stream(wire.server)
    wire.server.close()


def server_closes_in_mid_response(wire: Wire) -> None:
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc")
    wire.server.close()
    wire.end_of_stream(wire.client)


def server_closes_without_a_word(wire: Wire) -> None:
    wire.c(GET)
    wire.server.close()
    wire.end_of_stream(wire.client)


def reset_in_mid_response(wire: Wire) -> None:
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc")
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


def early_answer(wire: Wire) -> None:
    request = post(b"/up", b"u" * 20_000)
    body_at = request.index(b"\r\n\r\n") + 4
    wire.c(request[:body_at])
    wire.c(request[body_at:10_000])
    wire.s(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    wire.c(request[10_000:])


def early_answer_then_more(wire: Wire) -> None:
    """nginx answers early, reads on, and finds the next request behind the body."""
    request = post(b"/up", b"u" * 10_000)
    body_at = request.index(b"\r\n\r\n") + 4
    wire.c(request[:body_at])
    wire.c(request[body_at:9_000])
    wire.s(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    wire.client.send(request[9_000:] + GET)
    left = len(request) - 9_000 + len(GET)
    while left:
        left -= len(wire.server.recv(left))
    wire.s(OK)


def not_http(wire: Wire) -> None:
    wire.c(b"EHLO wire\r\n")
    wire.s(b"250 hello\r\n")
    wire.c(GET)
    wire.s(OK)


def server_speaks_first(wire: Wire) -> None:
    wire.s(b"220 wire ready\r\n")
    wire.c(GET)
    wire.s(OK)


def secrets(wire: Wire) -> None:
    """In all places where they are found; recorded as they are, to show that a replay shows none it should not."""
    wire.c(
        post(
            b"/login?token=SECRET&a=1",
            b"password=SECRET",
            b"Authorization: Basic SECRET\r\nCookie: id=SECRET\r\n",
        )
    )
    wire.s(b"HTTP/1.1 200 OK\r\nSet-Cookie: id=SECRET\r\nContent-Length: 6\r\n\r\nSECRET")


def byte_by_byte(wire: Wire) -> None:
    """Short ones: each byte is a record, on either side."""
    request, response = b"GET /a HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx"
    wire.c(request, pieces=len(request))
    wire.s(response, pieces=len(response))


def methods(wire: Wire) -> None:
    for method in METHODS:
        wire.c(get(b"/a", method))
        wire.s(OK)


def answer_to_nothing(wire: Wire) -> None:
    """RFC 9110 section 15.5.9: a server may send 408 on an idle connection."""
    wire.c(GET)
    wire.s(OK)
    wire.s(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    wire.server.close()
    wire.end_of_stream(wire.client)


def chunks_that_break_off(wire: Wire) -> None:
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.s(b"a\r\n01234")
    wire.server.close()
    wire.end_of_stream(wire.client)


def head_of_64_kilobytes(wire: Wire) -> None:
    """Read to its end, where the traceparent stands, in eight calls."""
    wire.c(long_request(63_000), pieces=8)
    wire.s(OK)


def head_longer_than_is_read(wire: Wire) -> None:
    wire.c(long_request(80_000))
    wire.s(OK)


def long_response_head(wire: Wire) -> None:
    """Its Content-Length stands at the end."""
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nX-Pad: " + b"p" * 20_000 + b"\r\nContent-Length: 5\r\n\r\nhello")


def slow_answer(wire: Wire) -> None:
    """Its bytes come long enough after one another to be seen in several passes."""
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n")
    for _ in range(3):
        time.sleep(0.03)  # what is captured, not what is waited for
        wire.s(b"x" * 100)


def same(act: Callable[[Wire], None], *expected: Expected) -> Case:
    return Case(act.__name__, act, list(expected), list(expected))


def file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower())


CASES: list[Case] = [
    *(same(act, *expected) for act, expected in WIRE_CASES if act.__name__ != "byte_by_byte"),
    # One capture for all methods.
    *(
        Case(file_name(title), act, expected, expected)
        for title, act, expected in HARD_CASES
        if not title.startswith("method ")
    ),
    same(methods, *(plain(b"/a", method) for method in METHODS)),
    same(answer_to_nothing, PLAIN),
    same(chunks_that_break_off, (b"GET", b"/a", 200, 0, 5, Outcome.SERVER_CLOSED)),
    same(head_of_64_kilobytes, (b"GET", b"/a", 200, 0, 5, COMPLETE)),
    same(head_longer_than_is_read, (b"GET", b"/a", 200, None, 5, COMPLETE)),
    same(long_response_head, (b"GET", b"/a", 200, 0, 5, COMPLETE)),
    same(byte_by_byte, (b"GET", b"/a", 200, 0, 1, COMPLETE)),
    same(until_close, (b"GET", b"/a", 200, 0, 300, COMPLETE)),
    same(client_leaves, (b"GET", b"/a", None, 0, None, Outcome.CLIENT_CLOSED)),
    same(server_closes_in_mid_response, (b"GET", b"/a", 200, 0, 3, Outcome.SERVER_CLOSED)),
    same(server_closes_without_a_word, (b"GET", b"/a", None, 0, None, Outcome.SERVER_CLOSED)),
    Case(
        "reset_in_mid_response",
        reset_in_mid_response,
        [(b"GET", b"/a", 200, 0, 3, Outcome.SERVER_CLOSED)],
        [(b"GET", b"/a", 200, 0, 3, Outcome.RESET)],
    ),
    same(half_closed, PLAIN),
    same(early_answer, (b"POST", b"/up", 413, 20_000, 0, COMPLETE)),
    same(early_answer_then_more, (b"POST", b"/up", 413, 10_000, 0, COMPLETE), PLAIN),
    same(not_http),
    same(server_speaks_first),
    same(slow_answer, (b"GET", b"/a", 200, 0, 300, COMPLETE)),
    same(secrets, (b"POST", b"/login?token=SECRET&a=1", 200, 15, 6, COMPLETE)),
]
