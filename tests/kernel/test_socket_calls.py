"""Every system call that carries HTTP is seen, whichever side makes it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from tests.kernel.test_exchanges_on_the_wire import BOTH, GET, OK, PLAIN, summary
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel

Send = Callable[[socket.socket, bytes], int]
Receive = Callable[[socket.socket, int], bytes]


def readv(end: socket.socket, count: int) -> bytes:
    first, second = bytearray(9), bytearray(count)
    length = os.readv(end.fileno(), [first, second])
    return bytes(first + second)[:length]


def recvmsg_into_two(end: socket.socket, count: int) -> bytes:
    first, second = bytearray(9), bytearray(count)
    length = end.recvmsg_into([first, second])[0]
    return bytes(first + second)[:length]


SENDS: dict[str, Send] = {
    "write": lambda end, data: os.write(end.fileno(), data),
    "writev": lambda end, data: os.writev(end.fileno(), [data[:20], b"", data[20:]]),
    "sendto": lambda end, data: end.send(data),
    "sendmsg": lambda end, data: end.sendmsg([data[:20], data[20:]]),
    "many pieces": lambda end, data: os.writev(end.fileno(), [data[i : i + 8] for i in range(0, len(data), 8)]),
}
RECEIVES: dict[str, Receive] = {
    "read": lambda end, count: os.read(end.fileno(), count),
    "readv": readv,
    "recvfrom": lambda end, count: end.recv(count),
    "recvmsg": lambda end, count: end.recvmsg(count)[0],
    "recvmsg into pieces": recvmsg_into_two,
}


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("receive", RECEIVES)
def test_a_call_that_sends_and_one_that_receives(send: str, receive: str, watched: Watched, tmp_path: Path):
    wire = Wire(socket.AF_INET, tmp_path)
    for sender, receiver, data in ((wire.client, wire.server, GET), (wire.server, wire.client, OK)):
        assert len(data) == SENDS[send](sender, data)
        assert data == RECEIVES[receive](receiver, 4096)

    watched.expect(PLAIN)
    wire.close()


def test_a_body_sent_by_sendfile_is_counted(wire: Wire, watched: Watched, tmp_path: Path):
    """Its bytes never are in the process's memory."""
    body = tmp_path / "body"
    body.write_bytes(b"f" * 100_000)
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    with body.open("rb") as file:
        left = 100_000
        while left:
            left -= (sent := os.sendfile(wire.server.fileno(), file.fileno(), None, left))
            while sent:
                sent -= len(wire.client.recv(sent))
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        assert [100_000] == [found.response_body_bytes for found in watched.exchanges(role)]


def test_the_end_of_a_response_by_shutdown_alone(wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(b"HTTP/1.0 200 OK\r\n\r\nbye")
    wire.server.shutdown(socket.SHUT_WR)
    wire.end_of_stream(wire.client)
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        assert [3] == [found.response_body_bytes for found in watched.exchanges(role)]


def test_a_connection_older_than_the_programs_is_seen_from_its_next_request(watched: Watched, tmp_path: Path):
    """Nothing of it is known, not even which end called."""
    watched.unwatch(os.getpid())
    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(GET.replace(b"/a", b"/before"))
    watched.watch(os.getpid())
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)

    watched.expect(PLAIN)
    wire.close()


def test_a_descriptor_that_is_used_again_is_a_new_connection(watched: Watched, tmp_path: Path):
    numbers = set()
    for _ in range(3):
        wire = Wire(socket.AF_INET, tmp_path)
        numbers.add((wire.client.fileno(), wire.server.fileno()))
        wire.c(GET)
        wire.s(OK)
        wire.close()
    watched.until(lambda done: len(done) == 6)

    assert 1 == len(numbers)
    assert 3 == len({found.connection for found in watched.exchanges(Role.SERVER)})


def test_a_socket_handed_to_another_descriptor_stays_one_connection(wire: Wire, watched: Watched):
    """dup, fork and SCM_RIGHTS share the socket; it is the socket that counts."""
    wire.c(GET)
    with wire.server.dup() as other:
        wire.server.close()
        wire.server = other
        wire.s(OK)
        watched.until(lambda done: len(done) == 2)

        for role in BOTH:
            assert [PLAIN] == [summary(found) for found in watched.exchanges(role)]
        wire.c(GET)
        wire.s(b"HTTP/1.0 200 OK\r\n\r\nbye")
    watched.until(lambda done: len(done) == 3)

    assert [3] == [found.response_body_bytes for found in watched.exchanges(Role.SERVER)[1:]]


def test_files_and_pipes_that_look_like_http_are_no_connections(watched: Watched, tmp_path: Path):
    path = tmp_path / "log"
    path.write_bytes(GET + OK)
    with path.open("rb", buffering=0) as file:
        assert file.read(4096)
    reader, writer = os.pipe()
    os.write(writer, GET)
    os.read(reader, 4096)

    assert [] == watched.until(lambda done: bool(watched.records), seconds=0.2)


@pytest.mark.parametrize("count", [9, 100])
def test_a_chunked_response_in_many_pieces_of_one_call_is_seen_to_its_end(count: int, wire: Wire, watched: Watched):
    """Node gathers what a handler wrote into one writev: size, data and end of each chunk are pieces."""
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    pieces = [b"3\r\n", b"abc", b"\r\n"] * (count // 3) + [b"0\r\n", b"\r\n"]
    total = os.writev(wire.server.fileno(), pieces)
    assert total == sum(map(len, pieces))
    while total:
        total -= len(wire.client.recv(total))
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        assert [(200, Outcome.COMPLETE)] == [(found.status, found.outcome) for found in watched.exchanges(role)]


def test_a_call_that_moves_less_than_it_was_asked_to_ends_where_it_ended(watched: Watched, tmp_path: Path):
    """The socket was full: the last chunk has not left yet, though it was among the pieces."""
    wire = Wire(socket.AF_INET, tmp_path)
    wire.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.server.setblocking(False)
    body = b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n"
    sent = os.writev(wire.server.fileno(), [body, b"0\r\n\r\n"])
    assert sent < len(body)
    early = list(watched.until(lambda done: bool(done), seconds=0.4))
    wire.server.setblocking(True)
    left = sent
    while left:
        left -= len(wire.client.recv(left))
    wire.s(body[sent:] + b"0\r\n\r\n", pieces=500)
    watched.until(lambda done: len(done) == 2)

    assert [] == early
    for role in BOTH:
        assert [Outcome.COMPLETE] == [found.outcome for found in watched.exchanges(role)]
    wire.close()
