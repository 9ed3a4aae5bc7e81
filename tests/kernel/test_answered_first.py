"""A client's other thread reads the answer before the call that sends the request has returned.

Here that call goes on for as long as the server takes nothing more of the body. Where it has but to return, the thread may
be held up for just long enough.
"""

import socket
from threading import Thread

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from otel_ebpf.records.kinds import Counter
from tests.kernel.test_exchanges_on_the_wire import COMPLETE, GET, OK, PLAIN
from tests.kernel.wire import Expected, Watched, Wire, summary

pytestmark = pytest.mark.kernel
BODY_BYTES = 1 << 20  # more than the socket's buffers take
REQUEST = b"PUT /up HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge"
NEXT = b"GET /next HTTP/1.1\r\nHost: shop\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnothing"
REFUSED: Expected = (b"PUT", b"/up", 413, BODY_BYTES, 5, COMPLETE)
MISSED: Expected = (b"GET", b"/next", 404, 0, 7, COMPLETE)


def answer_first(wire: Wire) -> None:
    wire.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    sending = Thread(target=lambda: wire.client.send(REQUEST + bytes(BODY_BYTES)))
    sending.start()
    left = len(REQUEST) + BODY_BYTES - len(wire.server.recv(len(REQUEST)))
    wire.s(EARLY)
    while left:
        left -= len(wire.server.recv(min(left, 1 << 16)))
    sending.join(60)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_answer_is_never_the_one_before(before: int, watched: Watched, wire: Wire):
    """What TCP's numbers show is counted, and costs that exchange alone. What a Unix socket has behind it is unknown."""
    counted = watched.counter(Counter.ANSWERED_FIRST)
    for _ in range(before):
        wire.c(GET)
        wire.s(OK)
    answer_first(wire)
    for _ in range(2):
        wire.c(NEXT)
        wire.s(NOT_FOUND)
        wire.c(GET)
        wire.s(OK)
    wire.client_leaves()

    behind = [MISSED, PLAIN] * 2
    if wire.client.family != socket.AF_UNIX or not before:
        watched.expect(*[PLAIN] * before, REFUSED, *behind, client=[*[PLAIN] * before, *behind])
        assert 1 == watched.counter(Counter.ANSWERED_FIRST) - counted
        return
    watched.until(lambda done: len(done) == 2 * (before + 1 + len(behind)))
    found = [(one.target, one.status, one.outcome) for one in watched.exchanges(Role.CLIENT)]
    known = [(b"/a", 200, COMPLETE)] * before
    assert known + [(target, None, Outcome.UNKNOWN) for target in (b"/up", *[b"/next", b"/a"] * 2)] == found
    assert [*[PLAIN] * before, REFUSED, *behind] == [summary(one) for one in watched.exchanges(Role.SERVER)]


def test_a_server_that_gives_up_before_there_is_a_request_answers_none(watched: Watched, wire: Wire):
    if wire.client.family == socket.AF_UNIX:
        return  # nothing there tells the two apart
    began = watched.counter(Counter.BEGAN)
    wire.s(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    wire.server_leaves()

    watched.expect()
    assert began == watched.counter(Counter.BEGAN)
