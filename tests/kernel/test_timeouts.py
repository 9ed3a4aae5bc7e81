"""Connections on which nobody answers any more: TCP gives up, and says so to no system call but the next."""

import errno
import socket
from collections.abc import Iterator

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from otel_ebpf.telemetry.attributes import error_type
from tests.kernel.cut_wire import CutWire
from tests.kernel.test_exchanges_on_the_wire import GET, OK, PLAIN
from tests.kernel.wire import Watched, Wire
from tests.services.processes import wait_until

pytestmark = pytest.mark.kernel

GAVE_UP = (errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH)
UNANSWERED = (b"GET", b"/a", None, 0, None, Outcome.TIMEOUT)


@pytest.fixture
def cut_wire(watched: Watched) -> Iterator[CutWire]:
    made = CutWire()
    yield made
    made.close()


def client_times_out(wire: CutWire, *, at_the_servers_end: bool = True) -> None:
    """Its request is never acknowledged, and its read says so; before that came an exchange in good order."""
    wire.c(GET)
    wire.s(OK)
    wire.cut(at_the_servers_end)
    wire.client.send(GET)
    try:
        wire.client.recv(10)
    except OSError as error:
        assert error.errno in GAVE_UP
        return
    raise AssertionError("the client was not told that TCP gave up")


def server_times_out(wire: CutWire, *, at_the_servers_end: bool = False) -> None:
    """No call tells of it: TCP's state does. The status was sent, the body was not whole."""
    wire.c(GET)
    wire.cut(at_the_servers_end)
    wire.server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc")


@pytest.mark.parametrize("at_the_servers_end", [False, True], ids=["own end", "other end"])
def test_a_client_whose_request_is_never_acknowledged_times_out(
    at_the_servers_end: bool, cut_wire: CutWire, watched: Watched
):
    client_times_out(cut_wire, at_the_servers_end=at_the_servers_end)

    watched.expect(PLAIN, client=[PLAIN, UNANSWERED])
    assert b"timeout" == error_type(Role.CLIENT, None, Outcome.TIMEOUT)


@pytest.mark.parametrize("at_the_servers_end", [True, False], ids=["own end", "other end"])
def test_a_server_whose_response_is_never_acknowledged_times_out(
    at_the_servers_end: bool, cut_wire: CutWire, watched: Watched
):
    """The client is told nothing, and still waits."""
    server_times_out(cut_wire, at_the_servers_end=at_the_servers_end)

    watched.expect((b"GET", b"/a", 200, 0, 3, Outcome.TIMEOUT), client=[])


def test_a_client_that_only_closes_what_has_timed_out_has_timed_out(cut_wire: CutWire, watched: Watched):
    """It may have waited on something else, and never read."""
    cut_wire.cut(at_the_servers_end=True)
    cut_wire.client.send(GET)
    wait_until(lambda: _is_over(cut_wire.client), "TCP has given up")
    cut_wire.client.close()

    watched.expect(client=[UNANSWERED])


def _is_over(end: socket.socket) -> bool:
    tcp_close = 7
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == tcp_close


def test_a_client_that_waits_with_keep_alive_probes_times_out(cut_wire: CutWire, watched: Watched):
    """The request was acknowledged; nothing but the probes is unanswered."""
    cut_wire.c(GET)
    for option, seconds in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 1)):
        cut_wire.client.setsockopt(socket.IPPROTO_TCP, option, seconds)
    cut_wire.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    cut_wire.cut(at_the_servers_end=True)
    with pytest.raises(OSError, match="timed out") as raised:
        cut_wire.client.recv(10)

    assert errno.ETIMEDOUT == raised.value.errno
    watched.expect(client=[UNANSWERED])


def test_a_client_that_does_not_wait_any_longer_has_closed(wire: Wire, watched: Watched):
    """Its own time-out is not seen; that it left is."""
    wire.c(GET)
    wire.client.settimeout(0.01)
    with pytest.raises(TimeoutError):
        wire.client.recv(10)
    wire.client_leaves()

    watched.expect((b"GET", b"/a", None, 0, None, Outcome.CLIENT_CLOSED))
