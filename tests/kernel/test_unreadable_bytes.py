"""Bytes that a call has moved and that cannot be read as it returns: their pages are being moved, or are taken away."""

import ctypes
import fcntl
import mmap
import socket
import struct
import termios
import time
from threading import Thread

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from tests.kernel.test_chunked_requests import coded
from tests.kernel.test_exchanges_on_the_wire import COMPLETE, GET, OK, PLAIN
from tests.kernel.test_unseen_bytes import lost_calls
from tests.kernel.wire import Expected, Watched, Wire, summary

pytestmark = pytest.mark.kernel
PAGE = mmap.PAGESIZE
BODY_BYTES = 1 << 20  # more than the socket's buffers take
REQUEST = b"PUT /up HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
UP: Expected = (b"PUT", b"/up", 200, BODY_BYTES, 5, COMPLETE)
DOWN: Expected = (b"GET", b"/a", 200, 0, BODY_BYTES, COMPLETE)
LONGEST_S = 60.0
libc = ctypes.CDLL(None, use_errno=True)


def waiting_bytes(end: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, bytes(4)))
    return int(count)


def send_and_take_away(
    sender: socket.socket, receiver: socket.socket, head: bytes, page: int, *, in_pieces: bool = False
) -> None:
    """In one call, out of memory of which a page is gone before the call returns, but not before its bytes were sent."""
    left = len(head) + BODY_BYTES
    with mmap.mmap(-1, left) as memory, memoryview(memory) as whole:
        memory[: len(head)] = head
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PAGE)
        with whole[: len(head)] as first, whole[len(head) :] as rest:
            sending = Thread(target=lambda: sender.sendmsg([first, rest]) if in_pieces else sender.send(whole))
            sending.start()
            deadline = time.monotonic() + LONGEST_S
            while waiting_bytes(receiver) < (page + 1) * PAGE:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            protect(whole, page, 0)
            while left:
                left -= len(receiver.recv(min(left, 1 << 16)))
            sending.join(LONGEST_S)
        protect(whole, page, mmap.PROT_READ | mmap.PROT_WRITE)


def protect(memory: memoryview, page: int, allowed: int) -> None:
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + page * PAGE
    assert 0 == libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(PAGE), allowed)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_request_that_cannot_be_read_is_counted_and_its_connection_given_up(
    in_pieces: bool, watched: Watched, wire: Wire
):
    before = lost_calls(watched)
    wire.c(GET)
    wire.s(OK)
    send_and_take_away(wire.client, wire.server, REQUEST, page=0, in_pieces=in_pieces)
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)

    watched.expect(PLAIN, UP, PLAIN, client=[PLAIN])
    assert 1 == lost_calls(watched) - before


def test_an_answer_that_cannot_be_read_is_no_missing_answer(watched: Watched, wire: Wire):
    before = lost_calls(watched)
    wire.c(GET)
    send_and_take_away(wire.server, wire.client, ANSWER, page=0)
    wire.client_leaves()
    watched.until(lambda done: len(done) == 2)

    assert [DOWN] == [summary(found) for found in watched.exchanges(Role.CLIENT)]
    assert [(b"/a", None, Outcome.UNKNOWN)] == [
        (found.target, found.status, found.outcome) for found in watched.exchanges(Role.SERVER)
    ]
    assert 1 == lost_calls(watched) - before


def test_a_body_that_cannot_be_read_is_counted_by_its_size(watched: Watched, wire: Wire):
    wire.c(GET)
    send_and_take_away(wire.server, wire.client, ANSWER, page=1)
    send_and_take_away(wire.client, wire.server, REQUEST, page=1)
    wire.s(OK)

    watched.expect(DOWN, UP)


def test_what_is_thrown_away_unread_is_not_what_lies_in_the_buffer(watched: Watched, wire: Wire):
    """MSG_TRUNC: TCP gives nothing to the reader, whose buffer holds the end of another body, and a request."""
    if wire.server.family == socket.AF_UNIX:
        return  # there the bytes are given
    buffer = bytearray(b"0\r\n\r\nGET /invented HTTP/1.1\r\n\r\n")
    before, body = bytes(buffer), coded(b"x" * (len(buffer) - 11))
    assert len(before) == len(body)
    wire.c(b"PUT /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.client.send(body)
    assert len(body) == wire.server.recv_into(buffer, len(body), socket.MSG_TRUNC)
    assert before == buffer
    wire.s(OK)

    sent = (b"PUT", b"/up", 200, len(before) - 11, 5, COMPLETE)
    watched.expect((b"PUT", b"/up", 200, None, 5, COMPLETE), client=[sent])
