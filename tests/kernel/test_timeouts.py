"""Connections on which nobody answers any more, and servers that do not wait."""

import errno
import socket
from collections.abc import Iterator

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role, Unknown
from otel_ebpf.telemetry.attributes import error_type
from tests.kernel.cut_wire import CutWire
from tests.kernel.test_exchanges_on_the_wire import BOTH, COMPLETE, GET, OK, PLAIN, summary
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel

GAVE_UP = (errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH)
UNANSWERED = (b"GET", b"/a", None, 0, None, Outcome.TIMEOUT)
TIMED_OUT_408 = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def cut_wire(watched: Watched) -> Iterator[CutWire]:
    made = CutWire()
    yield made
    made.close()


@pytest.mark.parametrize("at_the_servers_end", [False, True], ids=["own end", "other end"])
def test_a_client_whose_request_is_never_acknowledged_times_out(
    at_the_servers_end: bool, cut_wire: CutWire, watched: Watched
):
    """TCP gives up, and the client's read says so; before that came one exchange in good order."""
    cut_wire.c(GET)
    cut_wire.s(OK)
    cut_wire.cut(at_the_servers_end)
    cut_wire.client.send(GET)
    with pytest.raises(OSError) as raised:
        cut_wire.client.recv(10)
    watched.until(lambda done: len(done) == 3)

    assert raised.value.errno in GAVE_UP
    assert [PLAIN, UNANSWERED] == [summary(found) for found in watched.exchanges(Role.CLIENT)]
    assert b"timeout" == error_type(Role.CLIENT, None, watched.exchanges(Role.CLIENT)[1].outcome)
    assert [PLAIN] == [summary(found) for found in watched.exchanges(Role.SERVER)]


def test_a_client_that_only_closes_what_has_timed_out_has_timed_out(cut_wire: CutWire, watched: Watched):
    """It may have waited on something else, and never read."""
    cut_wire.cut(at_the_servers_end=True)
    cut_wire.client.send(GET)
    watched.until(lambda done: _is_over(cut_wire.client))
    cut_wire.client.close()
    watched.until(lambda done: bool(done))

    assert [UNANSWERED] == [summary(found) for found in watched.exchanges(Role.CLIENT)]


def _is_over(end: socket.socket) -> bool:
    tcp_close = 7
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == tcp_close


@pytest.mark.parametrize("at_the_servers_end", [True, False], ids=["own end", "other end"])
def test_a_server_whose_response_is_never_acknowledged_times_out(
    at_the_servers_end: bool, cut_wire: CutWire, watched: Watched
):
    """No call tells of it: TCP's state does. The status was sent, the body was not whole."""
    cut_wire.c(GET)
    cut_wire.cut(at_the_servers_end)
    cut_wire.server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc")
    watched.until(lambda done: bool(done))

    assert [(b"GET", b"/a", 200, 0, 3, Outcome.TIMEOUT)] == [summary(found) for found in watched.exchanges(Role.SERVER)]
    assert [] == watched.exchanges(Role.CLIENT), "the client still waits"


def test_a_client_that_waits_with_keep_alive_probes_times_out(cut_wire: CutWire, watched: Watched):
    """The request was acknowledged; nothing but the probes is unanswered."""
    cut_wire.c(GET)
    for option, seconds in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 1)):
        cut_wire.client.setsockopt(socket.IPPROTO_TCP, option, seconds)
    cut_wire.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    cut_wire.cut(at_the_servers_end=True)
    with pytest.raises(OSError, match="timed out") as raised:
        cut_wire.client.recv(10)
    watched.until(lambda done: bool(done))

    assert errno.ETIMEDOUT == raised.value.errno
    assert [UNANSWERED] == [summary(found) for found in watched.exchanges(Role.CLIENT)]


def test_a_client_that_does_not_wait_any_longer_has_closed(wire: Wire, watched: Watched):
    """Its own time-out is not seen; that it left is."""
    wire.c(GET)
    wire.client.settimeout(0.01)
    with pytest.raises(TimeoutError):
        wire.client.recv(10)
    wire.client.close()
    wire.end_of_stream(wire.server)
    wire.server.close()
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        assert [(b"GET", b"/a", None, 0, None, Outcome.CLIENT_CLOSED)] == [
            summary(found) for found in watched.exchanges(role)
        ]


def test_a_server_that_closes_an_idle_connection_answers_nothing(wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(OK)
    wire.server.close()
    wire.end_of_stream(wire.client)
    watched.until(lambda done: len(done) > 2, seconds=0.3)

    for role in BOTH:
        assert [PLAIN] == [summary(found) for found in watched.exchanges(role)]


def test_a_server_that_closes_a_connection_without_any_request_answers_nothing(wire: Wire, watched: Watched):
    wire.server.close()
    wire.end_of_stream(wire.client)

    assert [] == watched.until(lambda done: bool(done), seconds=0.3)


@pytest.mark.parametrize("answer", [TIMED_OUT_408, b""], ids=["408", "without a word"])
def test_a_request_that_is_never_whole_is_what_was_sent_of_it(answer: bytes, wire: Wire, watched: Watched):
    """The server does not wait for the rest of the head."""
    wire.c(b"POST /slow HTTP/1.1\r\nHost: wire\r\nContent-Le")
    if answer:
        wire.s(answer)
    wire.server.close()
    wire.end_of_stream(wire.client)
    watched.until(lambda done: len(done) == 2)

    status, body_bytes, outcome = (408, 0, COMPLETE) if answer else (None, None, Outcome.SERVER_CLOSED)
    for role in BOTH:
        (found,) = watched.exchanges(role)
        assert (b"POST", b"/slow", status, None, body_bytes, outcome) == summary(found)
        assert Unknown.REQUEST_HEAD_CUT in found.unknown


@pytest.mark.parametrize("answer", [TIMED_OUT_408, b""], ids=["408", "without a word"])
def test_a_body_that_is_never_whole_is_not_given_a_size_it_has_not(answer: bytes, wire: Wire, watched: Watched):
    wire.c(b"POST /slow HTTP/1.1\r\nHost: wire\r\nContent-Length: 100\r\n\r\n")
    wire.c(b"only this")
    if answer:
        wire.s(answer)
    wire.server.close()
    wire.end_of_stream(wire.client)
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        (found,) = watched.exchanges(role)
        assert (b"/slow", 408 if answer else None) == (found.target, found.status)
        assert (COMPLETE if answer else Outcome.SERVER_CLOSED) is found.outcome
        assert Unknown.REQUEST_BODY in found.unknown
