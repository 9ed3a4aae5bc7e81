"""What is captured: each case moves bytes between two sockets, and says what must be reported of it.

The cases of tests/kernel/test_exchanges_on_the_wire.py, test_hard_http1.py and test_endings.py, and what makes a replay
hard.
"""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Outcome, Role
from tests.kernel.cut_wire import CutWire
from tests.kernel.test_endings import CASES as ENDINGS
from tests.kernel.test_endings import stream_left_open
from tests.kernel.test_exchanges_on_the_wire import CASES as WIRE_CASES
from tests.kernel.test_exchanges_on_the_wire import COMPLETE, GET, OK, PLAIN, post
from tests.kernel.test_hard_http1 import CASES as HARD_CASES
from tests.kernel.test_hard_http1 import METHODS, get, plain
from tests.kernel.test_heads import long_request
from tests.kernel.test_timeouts import UNANSWERED, client_times_out, server_times_out
from tests.kernel.wire import Expected, Wire


class Case(NamedTuple):
    name: str
    act: Callable[[Wire], None]
    server: list[Expected]
    client: list[Expected]
    wire: Callable[[], Wire] = lambda: Wire(socket.AF_INET, Path())
    is_left_open: bool = False  # the agent ends before the connection does

    def expected(self, role: Role) -> list[Expected]:
        return self.server if role is Role.SERVER else self.client


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
    *(Case(case.name, case.act, case.server, case.client) for case in ENDINGS),
    # One capture for all methods.
    *(
        Case(file_name(title), act, expected, expected)
        for title, act, expected in HARD_CASES
        if not title.startswith("method ")
    ),
    same(methods, *(plain(b"/a", method) for method in METHODS)),
    same(head_of_64_kilobytes, (b"GET", b"/a", 200, 0, 5, COMPLETE)),
    same(head_longer_than_is_read, (b"GET", b"/a", 200, None, 5, COMPLETE)),
    same(long_response_head, (b"GET", b"/a", 200, 0, 5, COMPLETE)),
    same(byte_by_byte, (b"GET", b"/a", 200, 0, 1, COMPLETE)),
    same(early_answer, (b"POST", b"/up", 413, 20_000, 0, COMPLETE)),
    same(early_answer_then_more, (b"POST", b"/up", 413, 10_000, 0, COMPLETE), PLAIN),
    Case("client_times_out", client_times_out, [PLAIN], [PLAIN, UNANSWERED], CutWire),
    Case(
        "server_times_out",
        server_times_out,
        [(b"GET", b"/a", 200, 0, 3, Outcome.TIMEOUT)],
        [(b"GET", b"/a", None, 0, None, Outcome.CLIENT_CLOSED)],  # when the wire is closed: it has waited till then
        CutWire,
    ),
    same(stream_left_open)._replace(is_left_open=True),
    same(slow_answer, (b"GET", b"/a", 200, 0, 300, COMPLETE)),
    same(secrets, (b"POST", b"/login?token=SECRET&a=1", 200, 15, 6, COMPLETE)),
]
