"""Chunked requests followed in the kernel: exact sizes, exact ends, and no request out of what a body holds."""

import socket

import pytest

from tests.kernel.test_exchanges_on_the_wire import BOTH, COMPLETE, GET, OK, PLAIN, post
from tests.kernel.wire import Expected, Watched, Wire

pytestmark = pytest.mark.kernel

HEAD = b"PUT /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge"
INVENTED = b"GET /invented HTTP/1.1\r\nHost: nobody\r\n\r\n"
TRAP = b"\r\n0\r\n\r\n" + INVENTED  # to who looks for the end of chunks in their bytes


def coded(*chunks: bytes, trailer: bytes = b"", extension: bytes = b"") -> bytes:
    return (
        b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    )


BODY = coded(b"x" * 300, b"y" * 4000, b"z")


def up(size: int | None, status: int = 200) -> Expected:
    return (b"PUT", b"/up", status, size, 5, COMPLETE)


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 50, 800])
def test_wherever_the_calls_cut_a_chunked_request_its_size_is_exact(pieces: int, wire: Wire, watched: Watched):
    """Size lines too are cut, into single bytes at last."""
    wire.c(HEAD)
    wire.c(BODY, pieces=pieces)
    wire.s(OK)

    watched.expect(up(4301))


@pytest.mark.parametrize("cut", [10, len(HEAD) - 1, len(HEAD) + 1, len(HEAD) + 3, len(HEAD) + 4, len(HEAD) + 2000])
def test_a_head_and_the_first_bytes_of_its_body_may_come_in_one_call(cut: int, wire: Wire, watched: Watched):
    wire.c((HEAD + BODY)[:cut])
    wire.c((HEAD + BODY)[cut:])
    wire.s(OK)

    watched.expect(up(4301))


@pytest.mark.parametrize(
    "body",
    [
        coded(b"x" * 9000, b"y", extension=b";name=value"),
        coded(b"x" * 9000, b"y", extension=b' ; name="0"'),
        coded(b"x" * 9000, b"y", trailer=b"X-Sum: 1\r\nX-More: 2\r\n"),
        coded(b"x" * 9000, b"y").replace(b"\r\n", b"\n").replace(b"x\n1", b"x\r\n1").replace(b"y\n0", b"y\r\n0"),
        coded(b"x" * 8400, *[b"y" * 2] * 300, b"y"),
    ],
    ids=["an extension", "with spaces", "a trailer", "line feeds alone", "300 chunks"],
)
@pytest.mark.parametrize("pieces", [1, 9])
def test_extensions_trailers_and_many_chunks_in_a_call_are_followed(
    body: bytes, pieces: int, wire: Wire, watched: Watched
):
    wire.c(HEAD)
    wire.c(body, pieces=pieces)
    wire.s(OK)

    watched.expect(up(9001))


def test_an_upload_of_1_mb_is_followed_to_its_end(wire: Wire, watched: Watched):
    """Of it little more than the head is captured."""
    wire.c(HEAD + coded(*[b"u" * 20_000] * 50), pieces=37)
    wire.s(OK)

    watched.expect(up(1_000_000))
    assert sum(record.captured_bytes for record in watched.records) < 40_000


@pytest.mark.parametrize("pieces", [1, 3, 30])
def test_requests_that_are_pipelined_behind_chunks_are_found(pieces: int, wire: Wire, watched: Watched):
    """Also in the call that ends them, far behind what is captured of a call."""
    wire.c(HEAD)
    wire.c(coded(b"u" * 20_000) + GET + post(b"/p", INVENTED), pieces=pieces)
    for _ in range(3):
        wire.s(OK)

    watched.expect(up(20_000), PLAIN, (b"POST", b"/p", 200, len(INVENTED), 5, COMPLETE))


def test_all_of_it_may_come_in_one_call(wire: Wire, watched: Watched):
    """Each is followed anew, from the place where the one before it ended."""
    wire.c(HEAD + coded(b"u" * 20_000) + HEAD + coded(b"v" * 9000) + GET)
    for _ in range(3):
        wire.s(OK)

    watched.expect(up(20_000), up(9000), PLAIN)


def test_more_of_them_than_programs_may_go_on_with_one_another_give_no_wrong_size(wire: Wire, watched: Watched):
    """Twenty and more in a call of 64 KB, each to be captured behind the one before it."""
    sizes = {b"/%d" % number: 2500 + number for number in range(60)}
    wire.c(b"".join(HEAD.replace(b"/up", target) + coded(b"u" * size) for target, size in sizes.items()))
    for _ in sizes:
        wire.s(OK)
    watched.until(lambda done: len(done) >= 2)

    for role in BOTH:
        found = {each.target: each.request_body_bytes for each in watched.exchanges(role)}
        assert found.keys() <= sizes.keys()
        assert {} == {target: size for target, size in found.items() if size not in (None, sizes[target])}


def test_after_an_interim_response_the_body_is_followed_as_well(wire: Wire, watched: Watched):
    wire.c(HEAD)
    wire.s(b"HTTP/1.1 100 Continue\r\n\r\n")
    wire.c(BODY, pieces=3)
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)

    watched.expect(up(4301), PLAIN)


def test_of_requests_on_one_connection_each_is_followed_anew(wire: Wire, watched: Watched):
    for _ in range(3):
        wire.c(HEAD)
        wire.c(BODY, pieces=5)
        wire.s(OK)
        wire.c(GET)
        wire.s(OK)

    watched.expect(*[up(4301), PLAIN] * 3)


@pytest.mark.parametrize("pieces", [1, 2, 40])
def test_a_chunk_that_holds_a_last_chunk_and_a_request_invents_none(pieces: int, wire: Wire, watched: Watched):
    body = coded(b"u" * 9000 + TRAP, TRAP, INVENTED)
    wire.c(HEAD)
    wire.c(body, pieces=pieces)
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)

    watched.expect(up(9000 + 2 * len(TRAP) + len(INVENTED)), PLAIN)


def test_nor_does_a_call_that_begins_like_a_request_within_a_chunk(wire: Wire, watched: Watched):
    size = 9000 + len(TRAP)
    wire.c(HEAD)
    wire.c(b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"u" * 9000))
    wire.c(INVENTED)
    wire.c(b"\r\n0\r\n\r\n")
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)

    watched.expect(up(size), PLAIN)


def test_nor_does_a_body_whose_answer_came_before_it(wire: Wire, watched: Watched):
    """Its size is not known: the exchange is over before. What comes behind its end is a request all the same."""
    wire.c(HEAD)
    wire.s(EARLY)
    wire.c(coded(b"u" * 9000 + TRAP, INVENTED))
    wire.c(GET)
    wire.s(OK)

    watched.expect(up(None, 413), PLAIN)


def test_where_it_begins_like_a_request_in_a_call_of_its_own_nothing_more_is_believed(wire: Wire, watched: Watched):
    """The kernel takes that for another one; user space knows better, and where the body ends is then not known."""
    wire.c(HEAD)
    wire.s(EARLY)
    wire.c(b"%x\r\n" % (2 * len(INVENTED)))
    wire.c(INVENTED)
    wire.c(INVENTED + b"\r\n0\r\n\r\n")
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)

    watched.expect(up(None, 413))
    assert {"behind a body without a known end": 4} == watched.assembler.losses


@pytest.mark.parametrize("is_pipelined", [False, True], ids=["alone", "pipelined"])
@pytest.mark.parametrize("is_joined", [False, True], ids=["in calls", "in one call"])
@pytest.mark.parametrize("body", [INVENTED * 3, TRAP * 300, b"42\n" + TRAP, b"5\r\nhello" + TRAP])
def test_a_body_of_known_length_invents_no_request(
    body: bytes, is_joined: bool, is_pipelined: bool, wire: Wire, watched: Watched
):
    """Whatever it holds, also what reads like chunks."""
    before, upload = GET if is_pipelined else b"", post(b"/p", body)
    at = upload.index(b"\r\n\r\n") + 4
    calls = [before + upload] if is_joined else [before, upload[:at], upload[at : at + 41], upload[at + 41 :]]
    for call in filter(None, calls):
        wire.c(call)
    wire.s(OK)
    if is_pipelined:
        wire.s(OK)
    wire.c(GET)
    wire.s(OK)

    watched.expect(*[PLAIN] * is_pipelined, (b"POST", b"/p", 200, len(body), 5, COMPLETE), PLAIN)


def test_chunks_in_pieces_of_one_call_are_followed(wire: Wire, watched: Watched):
    """As Node writes them: head, size, data and line end are pieces of one writev."""
    pieces = [HEAD, b"2328\r\n", b"u" * 9000, b"\r\n", b"0\r\n\r\n"]
    left = wire.client.sendmsg(pieces)
    assert sum(map(len, pieces)) == left
    while left:
        left -= len(wire.server.recv(left))
    wire.s(OK)

    watched.expect(up(9000))


def test_more_chunks_than_are_followed_in_one_call_leave_the_size_open(watched: Watched, wire: Wire):
    """Absent, not wrong; and what comes behind them is not believed."""
    wire.c(HEAD)
    wire.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    wire.c(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
    wire.s(OK)

    watched.expect(up(None))
