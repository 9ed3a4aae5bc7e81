"""Chunked responses followed in the kernel: exact sizes, exact ends, and given up where they cannot be followed."""

import socket
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role
from tests.kernel.test_exchanges_on_the_wire import BOTH, COMPLETE, GET, OK, chunked, summary
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = chunked(b"x" * 300, b"y" * 4000, b"z")[len(HEAD) :]


def expect(watched: Watched, size: int | None) -> None:
    watched.until(lambda done: len(done) >= 2)
    for role in BOTH:
        assert [(b"GET", b"/a", 200, 0, size, COMPLETE)] == [summary(found) for found in watched.exchanges(role)]


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 50, 800])
def test_wherever_the_calls_cut_a_chunked_body_its_size_is_exact(pieces: int, wire: Wire, watched: Watched):
    """Size lines too are cut, into single bytes at last."""
    wire.c(GET)
    wire.s(HEAD)
    wire.s(BODY, pieces=pieces)

    expect(watched, 4301)


@pytest.mark.parametrize("cut", [len(HEAD) - 10, len(HEAD) + 1, len(HEAD) + 3, len(HEAD) + 200])
def test_a_head_and_the_first_bytes_of_its_body_may_come_in_one_call(cut: int, wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s((HEAD + BODY)[:cut])
    wire.s((HEAD + BODY)[cut:])

    expect(watched, 4301)


@pytest.mark.parametrize("cut", [-1, -2, -3])
def test_a_body_behind_an_empty_line_that_two_calls_cut_is_followed(cut: int, wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(HEAD[:cut])
    wire.s(HEAD[cut:] + BODY)

    expect(watched, 4301)


def test_trailers_in_a_call_of_their_own_end_the_response(wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(HEAD)
    wire.s(BODY[:-2])
    wire.s(b"X-Sum: 1\r\nX-More: 2\r\n\r\n")

    expect(watched, 4301)


def test_a_chunk_that_holds_a_last_chunk_does_not_end_the_response(wire: Wire, watched: Watched):
    """The connection goes quiet exactly there."""
    trap = b"x" * 3000 + b"\r\n0\r\n\r\n"
    wire.c(GET)
    wire.s(HEAD)
    wire.s(b"%x\r\n%b" % (len(trap) + 4, trap))
    early = list(watched.until(lambda done: bool(done), seconds=0.4))
    wire.s(b"rest\r\n0\r\n\r\n")

    assert [] == early
    expect(watched, len(trap) + 4)


def test_responses_on_one_connection_are_each_followed_anew(wire: Wire, watched: Watched):
    for _ in range(3):
        wire.c(GET)
        wire.s(HEAD)
        wire.s(BODY, pieces=5)
        wire.c(GET)
        wire.s(OK)
    watched.until(lambda done: len(done) == 12)

    for role in BOTH:
        assert [4301, 5] * 3 == [found.response_body_bytes for found in watched.exchanges(role)]


def test_more_chunks_than_are_followed_in_one_call_leave_the_size_open(watched: Watched, tmp_path: Path):
    """Absent, not wrong; the end is told by the last bytes and the quiet behind them."""
    wire = Wire(socket.AF_UNIX, tmp_path)
    wire.c(GET)
    wire.s(HEAD)
    wire.s(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")

    expect(watched, None)
    wire.close()


def test_a_followed_response_that_breaks_off_behind_a_whole_chunk_is_not_complete(wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(HEAD)
    wire.s(b"5\r\nhello\r\n")
    wire.server_leaves()
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        assert [(5, Outcome.SERVER_CLOSED)] == [
            (found.response_body_bytes, found.outcome) for found in watched.exchanges(role)
        ]


def test_a_body_of_known_length_that_reads_like_chunks_is_of_that_length(wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    wire.s(b"3\r\nabc\r\n0\r\n\r\n".ljust(5000, b"-"), pieces=3)
    watched.until(lambda done: len(done) == 2)

    assert [5000] == [found.response_body_bytes for found in watched.exchanges(Role.SERVER)]


def test_a_response_that_breaks_off_within_a_chunk_is_counted_to_its_last_byte(wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(HEAD)
    wire.s(b"5\r\nhello\r\na\r\n01234")
    wire.server_leaves()
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        assert [(10, Outcome.SERVER_CLOSED)] == [
            (found.response_body_bytes, found.outcome) for found in watched.exchanges(role)
        ]
