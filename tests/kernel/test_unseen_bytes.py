"""Bytes that a process moves which nobody watches, through a connection of one that is watched."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from otel_ebpf.records.kinds import Counter
from tests.kernel.test_exchanges_on_the_wire import GET, OK, PLAIN, summary
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

# Does with each socket that it is sent what it is told to: so many bytes are read, or these are written.
ELSEWHERE = """
import socket, sys
asked = socket.socket(fileno=int(sys.argv[1]))
while True:
    what, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 1)
    if not what:
        break
    with socket.socket(fileno=descriptors[0]) as end:
        if what.isdigit():
            asked.sendall(end.recv(int(what), socket.MSG_WAITALL))
        else:
            end.sendall(what)
            asked.sendall(b"done")
"""


class Elsewhere:
    """A process that is not watched."""

    def __init__(self, watched: Watched) -> None:
        self.asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # no stream: it is not followed
        self.asking.settimeout(60)
        command = [sys.executable, "-c", ELSEWHERE, str(asked.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[asked.fileno()])
        asked.close()
        watched.unwatch(self.process.pid)

    def write(self, end: socket.socket, data: bytes) -> None:
        socket.send_fds(self.asking, [data], [end.fileno()])
        assert b"done" == self.asking.recv(4)

    def read(self, end: socket.socket, count: int) -> bytes:
        socket.send_fds(self.asking, [b"%d" % count], [end.fileno()])
        return self.asking.recv(count, socket.MSG_WAITALL)

    def close(self) -> None:
        self.asking.close()
        self.process.wait(60)


@pytest.fixture
def elsewhere(watched: Watched) -> Iterator[Elsewhere]:
    other = Elsewhere(watched)
    yield other
    other.close()


@pytest.fixture(params=FAMILIES)
def wire(request: pytest.FixtureRequest, watched: Watched, tmp_path: Path) -> Iterator[Wire]:
    one = Wire(FAMILIES[request.param], tmp_path)
    yield one
    one.close()


def lost_calls(watched: Watched) -> int:
    return watched.counter(Counter.CALLS_UNSEEN)


def test_an_answer_from_elsewhere_is_no_missing_answer(watched: Watched, elsewhere: Elsewhere, wire: Wire):
    """The process that has read the request closes the connection. It was answered, by whatever status."""
    before = lost_calls(watched)
    wire.c(GET)
    elsewhere.write(wire.server, OK)
    assert OK == wire.client.recv(len(OK), socket.MSG_WAITALL)
    wire.server_leaves()
    watched.until(lambda done: len(done) == 2)

    assert [(None, Outcome.UNKNOWN)] == [(found.status, found.outcome) for found in watched.exchanges(Role.SERVER)]
    assert [PLAIN] == [summary(found) for found in watched.exchanges(Role.CLIENT)]
    assert 1 == lost_calls(watched) - before


@pytest.mark.parametrize("first_to_leave", ["client", "server"])
def test_an_answer_that_is_read_elsewhere_is_no_missing_answer(
    first_to_leave: str, watched: Watched, elsewhere: Elsewhere, wire: Wire
):
    """The client closes, or reads the end of the stream."""
    before = lost_calls(watched)
    wire.c(GET)
    wire.server.sendall(OK)
    assert OK == elsewhere.read(wire.client, len(OK))
    if first_to_leave == "client":
        wire.client.close()
    else:
        wire.server_leaves()
    watched.until(lambda done: len(done) == 2)

    assert [(None, Outcome.UNKNOWN)] == [(found.status, found.outcome) for found in watched.exchanges(Role.CLIENT)]
    assert [PLAIN] == [summary(found) for found in watched.exchanges(Role.SERVER)]
    assert 1 == lost_calls(watched) - before


def test_no_request_is_given_the_answer_of_a_later_one(watched: Watched, elsewhere: Elsewhere, wire: Wire):
    """The first one is answered from elsewhere, the second one here, with another status."""
    before = lost_calls(watched)
    wire.c(GET)
    elsewhere.write(wire.server, OK)
    assert OK == wire.client.recv(len(OK), socket.MSG_WAITALL)
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    wire.c(GET.replace(b"/a", b"/b"))
    wire.s(missing)
    watched.until(lambda _: len(watched.exchanges(Role.CLIENT)) == 2)
    wire.close()
    watched.until(lambda _: len(watched.exchanges(Role.SERVER)) == 2)

    assert [200, 404] == [found.status for found in watched.exchanges(Role.CLIENT)]
    assert {(None, Outcome.UNKNOWN)} == {(found.status, found.outcome) for found in watched.exchanges(Role.SERVER)}
    assert 1 == lost_calls(watched) - before


@pytest.mark.parametrize("length", ["Content-Length: 9000", "Connection: close"])
def test_a_body_of_which_a_part_comes_from_elsewhere(length: str, watched: Watched, elsewhere: Elsewhere, wire: Wire):
    before = lost_calls(watched)
    head = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % length.encode()
    wire.c(GET)
    wire.s(head + b"a" * 1000)
    elsewhere.write(wire.server, b"b" * 5000)
    assert b"b" * 5000 == wire.client.recv(5000, socket.MSG_WAITALL)
    wire.s(b"c" * 3000)
    wire.server_leaves()
    watched.until(lambda done: len(done) == 2)

    assert [(200, Outcome.UNKNOWN)] == [(found.status, found.outcome) for found in watched.exchanges(Role.SERVER)]
    assert [(*PLAIN[:4], 9000, Outcome.COMPLETE)] == [summary(found) for found in watched.exchanges(Role.CLIENT)]
    assert 1 == lost_calls(watched) - before


def test_a_request_of_which_a_part_is_read_elsewhere(watched: Watched, elsewhere: Elsewhere, wire: Wire):
    """What comes behind it would be taken for its body."""
    before = lost_calls(watched)
    post = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n"
    wire.c(post)
    wire.client.sendall(b"b" * 5000)
    assert b"b" * 5000 == elsewhere.read(wire.server, 5000)
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)
    watched.until(lambda _: len(watched.exchanges(Role.CLIENT)) == 2)
    wire.close()
    watched.until(lambda _: len(watched.exchanges(Role.SERVER)) == 1)

    (found,) = watched.exchanges(Role.SERVER)
    assert (b"POST", 200) == (found.method, found.status)
    assert 5000 != found.request_body_bytes
    assert 1 == lost_calls(watched) - before


def test_what_was_not_begun_here_is_not_counted_as_lost(watched: Watched, elsewhere: Elsewhere, wire: Wire):
    """The connection was passed on before its first byte, and is closed here."""
    before = lost_calls(watched)
    wire.client.sendall(GET)
    assert GET == elsewhere.read(wire.server, len(GET))
    elsewhere.write(wire.server, OK)
    assert OK == wire.client.recv(len(OK), socket.MSG_WAITALL)
    wire.server_leaves()
    watched.until(lambda done: len(done) == 1)

    watched.expect(client=[PLAIN])
    assert 0 == lost_calls(watched) - before


def test_an_urgent_byte_and_a_half_closed_connection_are_nothing_unseen(watched: Watched, wire: Wire):
    """Both take a number of TCP's that no byte of the stream has."""
    before = lost_calls(watched)
    wire.c(GET)
    wire.client.send(b"!", socket.MSG_OOB)
    wire.s(OK)
    wire.c(GET)
    wire.client.shutdown(socket.SHUT_WR)
    wire.s(OK)
    wire.server_leaves()

    watched.expect(PLAIN, PLAIN)
    assert 0 == lost_calls(watched) - before
