"""What two real sockets exchange, and what the programs on sys_exit and the assembler make of it."""

import socket
from collections.abc import Callable

import pytest

from otel_ebpf.exchanges.exchange import Outcome, Role, Unknown
from tests.kernel.wire import BOTH, Expected, Watched, Wire, summary

pytestmark = pytest.mark.kernel

GET = b"GET /a HTTP/1.1\r\nHost: wire\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
COMPLETE = Outcome.COMPLETE

PLAIN: Expected = (b"GET", b"/a", 200, 0, 5, COMPLETE)


def post(target: bytes, body: bytes, extra: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: wire\r\n%bContent-Length: %d\r\n\r\n%b" % (target, extra, len(body), body)


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


def keep_alive(wire: Wire) -> None:
    for number in range(5):
        wire.c(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        wire.s(OK)


def head_then_body(wire: Wire) -> None:
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n")
    wire.s(b"x" * 3000, pieces=3)


def upload(wire: Wire) -> None:
    request = post(b"/up", b"u" * 300_000)
    end = request.index(b"\r\n\r\n") + 4
    wire.c(request[:end])
    wire.c(request[end:], pieces=5)
    wire.s(OK)


def expect_continue(wire: Wire) -> None:
    request = post(b"/up", b"ABCDEFGHIJ", b"Expect: 100-continue\r\n")
    wire.c(request[:-10])
    wire.s(b"HTTP/1.1 100 Continue\r\n\r\n")
    wire.c(request[-10:])
    wire.s(OK)


def early_hints(wire: Wire) -> None:
    wire.c(GET)
    wire.s(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
    wire.s(OK)


def first_byte_alone(wire: Wire) -> None:
    """As net/http reads it."""
    keep_alive_once(wire)
    wire.c(GET[:1])
    wire.c(GET[1:])
    wire.s(OK)


def keep_alive_once(wire: Wire) -> None:
    wire.c(GET)
    wire.s(OK)


def byte_by_byte(wire: Wire) -> None:
    wire.c(GET, pieces=len(GET))
    wire.s(OK, pieces=len(OK))
    wire.c(post(b"/p", b"abc"), pieces=61)
    wire.s(OK, pieces=len(OK))


def pipelined(wire: Wire) -> None:
    wire.c(GET + post(b"/2", b"abc") + b"GET /3 HTTP/1.1\r\n\r\n")
    wire.s(OK)
    wire.s(OK.replace(b"200", b"201"))
    wire.s(OK.replace(b"200", b"404"))


def pipelined_in_one_answer(wire: Wire) -> None:
    wire.c(GET + GET)
    wire.s(OK + OK.replace(b"200", b"201"))


def no_content(wire: Wire) -> None:
    wire.c(GET)
    wire.s(b"HTTP/1.1 204 No Content\r\n\r\n")
    wire.c(GET)
    wire.s(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n")
    wire.c(b"HEAD /a HTTP/1.1\r\n\r\n")
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")


def response_head_in_pieces(wire: Wire) -> None:
    wire.c(GET)
    wire.s(OK[:5])
    wire.s(OK[5:11])
    wire.s(OK[11:])


def unknown_method(wire: Wire) -> None:
    wire.c(b"PURGE /a HTTP/1.1\r\n\r\n")
    wire.s(OK)


def leading_empty_line(wire: Wire) -> None:
    wire.c(b"\r\n" + GET)
    wire.s(OK)


def chunked_at_once(wire: Wire) -> None:
    wire.c(GET)
    wire.s(chunked(b"abc", b"de"))


def chunked_in_calls(wire: Wire) -> None:
    wire.c(GET)
    data = chunked(b"x" * 4000, b"y" * 4000)
    for piece in (data[:47], data[47:4050], data[4050:-5], data[-5:]):
        wire.s(piece)


def chunked_request(wire: Wire) -> None:
    wire.c(b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    wire.s(OK)


CASES: list[tuple[Callable[[Wire], None], list[Expected]]] = [
    (keep_alive, [(b"GET", b"/%d" % number, 200, 0, 5, COMPLETE) for number in range(5)]),
    (head_then_body, [(b"GET", b"/a", 200, 0, 3000, COMPLETE)]),
    (upload, [(b"POST", b"/up", 200, 300_000, 5, COMPLETE)]),
    (expect_continue, [(b"POST", b"/up", 200, 10, 5, COMPLETE)]),
    (early_hints, [PLAIN]),
    (first_byte_alone, [PLAIN, PLAIN]),
    (byte_by_byte, [PLAIN, (b"POST", b"/p", 200, 3, 5, COMPLETE)]),
    (pipelined, [PLAIN, (b"POST", b"/2", 201, 3, 5, COMPLETE), (b"GET", b"/3", 404, 0, 5, COMPLETE)]),
    (pipelined_in_one_answer, [PLAIN, (b"GET", b"/a", 201, 0, 5, COMPLETE)]),
    (
        no_content,
        [
            (b"GET", b"/a", 204, 0, 0, COMPLETE),
            (b"GET", b"/a", 304, 0, 0, COMPLETE),
            (b"HEAD", b"/a", 200, 0, 0, COMPLETE),
        ],
    ),
    (response_head_in_pieces, [PLAIN]),
    (unknown_method, [(b"PURGE", b"/a", 200, 0, 5, COMPLETE)]),
    (leading_empty_line, [PLAIN]),
    (chunked_at_once, [(b"GET", b"/a", 200, 0, 5, COMPLETE)]),
    (chunked_request, [(b"PUT", b"/c", 200, 3, 5, COMPLETE)]),
    (chunked_in_calls, [(b"GET", b"/a", 200, 0, 8000, COMPLETE)]),
]


@pytest.mark.parametrize(("act", "expected"), CASES, ids=[case[0].__name__ for case in CASES])
def test_what_crossed_the_wire_is_what_is_reported(
    act: Callable[[Wire], None], expected: list[Expected], wire: Wire, watched: Watched
):
    """Both ends, on a connection that stays open: each exchange within a second of its end."""
    act(wire)

    watched.expect(*expected)


def test_bytes_sent_before_a_reset_still_count_when_the_client_reads_them(watched: Watched, tmp_path):
    """A server that closes with unread input resets the connection after a whole response."""
    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(GET)
    wire.client.send(b"unread by the server")
    wire.server.send(OK)
    wire.server.close()
    assert wire.client.recv(4096) == OK

    watched.until(lambda done: any(found.role is Role.CLIENT for found in done))

    assert [PLAIN] == [summary(found) for found in watched.exchanges(Role.CLIENT)]
    wire.close()


def test_peeked_bytes_are_not_counted_twice(wire: Wire, watched: Watched):
    wire.client.send(GET)
    assert GET == wire.server.recv(4096, socket.MSG_PEEK)
    assert GET == wire.server.recv(4096)
    wire.s(OK)

    watched.until(lambda done: len(done) == 2)

    assert [len(GET)] == [found.request_bytes for found in watched.exchanges(Role.SERVER)]


def test_times_are_those_of_the_first_and_last_bytes(wire: Wire, watched: Watched):
    import time

    marks = [time.monotonic_ns()]
    for step in (
        lambda: wire.c(GET[:20]),
        lambda: wire.c(GET[20:]),
        lambda: wire.s(OK[:-5]),
        lambda: wire.s(OK[-5:]),
    ):
        step()
        marks.append(time.monotonic_ns())
    watched.until(lambda done: len(done) == 2)

    for role in BOTH:
        (exchange,) = watched.exchanges(role)
        times = (
            exchange.request_start_ns,
            exchange.request_end_ns,
            exchange.response_start_ns,
            exchange.response_end_ns,
        )
        for index, moment in enumerate(times):
            assert moment is not None
            assert marks[index] <= moment <= marks[index + 1]
        assert Unknown.NOTHING == exchange.unknown


def test_addresses_are_those_of_the_socket(wire: Wire, watched: Watched):
    wire.c(GET)
    wire.s(OK)
    watched.until(lambda done: len(done) == 2)

    for role, end in ((Role.SERVER, wire.server), (Role.CLIENT, wire.client)):
        (exchange,) = watched.exchanges(role)
        assert end.family == exchange.family
        if end.family == socket.AF_UNIX:
            assert (bytes(16), 0, bytes(16), 0) == (
                exchange.local_address,
                exchange.local_port,
                exchange.remote_address,
                exchange.remote_port,
            )
            continue
        for name, address, port in (
            (end.getsockname(), exchange.local_address, exchange.local_port),
            (end.getpeername(), exchange.remote_address, exchange.remote_port),
        ):
            assert (socket.inet_pton(end.family, name[0]).ljust(16, b"\0"), name[1]) == (address, port)


def test_a_request_that_goes_on_after_its_answer_is_counted_to_its_end(wire: Wire, watched: Watched):
    request = post(b"/up", b"u" * 200_000)
    wire.c(request[:70_000])
    wire.s(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    wire.c(request[70_000:])

    watched.expect((b"POST", b"/up", 413, 200_000, 0, COMPLETE))


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"d" * 60_000, 60_000),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + 3 * (b"4e20\r\n" + b"d" * 20_000 + b"\r\n")
            + b"0\r\n\r\n",
            60_000,
        ),
    ],
    ids=["length", "chunked"],
)
def test_a_response_in_calls_is_whole_though_the_request_goes_on_behind_it(
    answer: bytes, size: int, wire: Wire, watched: Watched
):
    """And the next request comes at once: nothing but the records of the late body says that the response went on."""
    request = post(b"/up", b"u" * 20_000)
    wire.c(request[:10_000])
    wire.s(answer[:16_384])
    wire.s(answer[16_384:])
    wire.c(request[10_000:])
    wire.c(GET)
    wire.s(OK)

    watched.expect((b"POST", b"/up", 200, 20_000, size, COMPLETE), PLAIN)


def test_a_request_read_in_one_call_with_the_rest_of_a_body_is_found(wire: Wire, watched: Watched):
    """nginx answers early, reads on, and finds the next request behind the body."""
    request = post(b"/up", b"u" * 20_000)
    wire.c(request[:15_000])
    wire.s(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    wire.client.send(request[15_000:] + GET)
    assert len(wire.server.recv(65536)) == len(request) - 15_000 + len(GET)
    wire.s(OK)
    watched.until(lambda done: len(done) == 4)

    expected = [(b"POST", b"/up", 413, 20_000, 0, COMPLETE), PLAIN]
    for role in BOTH:
        assert expected == [summary(found) for found in watched.exchanges(role)]
