"""HTTP/1.1 as it is allowed to be, and as it should not be: real sockets, both ends, three families."""

import array
import os
import socket
from collections.abc import Callable

import pytest

from otel_ebpf.exchanges.exchange import Role
from tests.kernel.test_exchanges_on_the_wire import COMPLETE, GET, OK, PLAIN, chunked, post
from tests.kernel.wire import Expected, Watched, Wire

pytestmark = pytest.mark.kernel


def ask(request: bytes, response: bytes = OK) -> Callable[[Wire], None]:
    def act(wire: Wire) -> None:
        wire.c(request)
        wire.s(response)

    return act


def get(target: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: wire\r\n\r\n" % (method, target)


def plain(target: bytes, method: bytes = b"GET", status: int = 200, size: int = 5) -> Expected:
    return (method, target, status, 0, size, COMPLETE)


def websocket(wire: Wire) -> None:
    """RFC 6455: what follows the upgrade is no HTTP, even where it looks like it."""
    wire.c(get(b"/ws"))
    wire.s(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    wire.c(b"\x81\x05hello")
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    wire.c(get(b"/not-http-any-more"))


def tunnel(wire: Wire) -> None:
    """RFC 9110 9.3.6: after a 2xx to CONNECT come the bytes of somebody else."""
    wire.c(b"CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n")
    wire.s(b"HTTP/1.1 200 Connection established\r\n\r\n")
    wire.c(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    wire.s(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")


def server_sent_events(wire: Wire) -> None:
    wire.c(get(b"/events"))
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(5):
        event = b"data: %d\n\n" % number
        wire.s(b"%x\r\n%b\r\n" % (len(event), event))
    wire.s(b"0\r\n\r\n")


def many_pipelined(wire: Wire) -> None:
    wire.c(b"".join(get(b"/%d" % number) for number in range(20)))
    for number in range(20):
        wire.s(OK.replace(b"200", b"%d" % (400 + number)))


def pipelined_across_calls(wire: Wire) -> None:
    for number in range(3):
        wire.c(get(b"/%d" % number))
    for _ in range(3):
        wire.s(OK)


def pipelined_posts_in_pieces(wire: Wire) -> None:
    wire.c(post(b"/0", b"A" * 50) + post(b"/1", b"B" * 50), pieces=7)
    wire.s(OK + OK, pieces=5)


def in_flight(make: Callable[[int], bytes], is_joined: bool = False) -> Callable[[Wire], None]:
    """The client does not wait: each request but the first is sent while the response to the one before is on its way."""

    def act(wire: Wire) -> None:
        wire.c(get(b"/0"))
        for number in range(1, 4):
            response = make(3000)
            wire.s(response[:200])
            wire.c(get(b"/%d" % number))
            wire.s(response[200:1500])
            wire.s(response[1500:] + (OK if is_joined and number == 3 else b""))
        if not is_joined:
            wire.s(OK)

    return act


def of_length(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, b"y" * size)


def of_chunks(size: int) -> bytes:
    return chunked(b"y" * 1000, b"z" * (size - 1000))


def of_other_chunks(size: int) -> bytes:
    """With an extension, and more digits than the kernel follows."""
    return of_chunks(size).replace(b"3e8\r\n", b"000003e8;e\r\n", 1)


def answers_outstanding(wire: Wire) -> None:
    """Two requests, half an answer, a third request: the second answer is not the third's."""
    wire.c(get(b"/0"))
    wire.c(get(b"/1"))
    wire.s(of_length(3000)[:200])
    wire.c(get(b"/2"))
    wire.s(of_length(3000)[200:])
    for status in (b"201", b"202"):
        wire.s(OK.replace(b"200", status))


def keep_alive_of_old(wire: Wire) -> None:
    for _ in range(2):
        wire.c(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        wire.s(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")


def refused_expectation(wire: Wire) -> None:
    wire.c(b"PUT /u HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n")
    wire.s(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    wire.c(get(b"/a"))
    wire.s(OK)


def large_response(wire: Wire) -> None:
    wire.c(GET)
    wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    wire.s(b"z" * 1_000_000, pieces=40)


def large_request(wire: Wire) -> None:
    wire.c(post(b"/p", b"z" * 1_000_000), pieces=40)
    wire.s(OK)


def chunked_request_in_calls(wire: Wire) -> None:
    """With a trailer. Its chunks are not captured, their sizes are read."""
    for piece in (
        b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r",
        b"\nabc\r\n5\r\nh",
        b"ello\r\n0\r\n",
        b"X-Sum: 1\r\n\r\n",
    ):
        wire.c(piece)
    wire.s(OK)


def chunk_that_holds_a_request(wire: Wire) -> None:
    """Its data looks like its end, and like what would come behind it."""
    data = b"u" * 9000 + b"\r\n0\r\n\r\n" + get(b"/invented")
    wire.c(b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.c(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data), pieces=3)
    wire.s(OK)
    wire.c(get(b"/a"))
    wire.s(OK)


def file_of(size_bytes: int) -> Callable[[Wire], None]:
    def act(wire: Wire) -> None:
        wire.c(GET)
        wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size_bytes)
        wire.s_file(size_bytes)

    return act


def upload_of_100_mb(wire: Wire) -> None:
    request = post(b"/p", bytes(100_000_000))
    wire.c(request, pieces=2000)
    wire.s(OK)


def two_interim_responses(wire: Wire) -> None:
    wire.c(get(b"/a"))
    wire.s(b"HTTP/1.1 102 Processing\r\n\r\n")
    wire.s(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    wire.s(OK)


def interim_and_final_in_one_call(wire: Wire) -> None:
    wire.c(get(b"/a"))
    wire.s(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)


def socket_passed_on(wire: Wire) -> None:
    """SCM_RIGHTS, as inetd-like servers and Node's cluster do it: the child answers what the parent read."""
    wire.c(GET)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        _, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
        (descriptor,) = array.array("i", ancillary[0][2][:4])
        os.write(descriptor, OK)
        os._exit(0)
    ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [wire.server.fileno()]))])
    os.waitpid(child, 0)
    assert OK == wire.client.recv(4096)
    ours.close()
    theirs.close()


METHODS = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"QUERY",
    b"PURGE",
    b"M-SEARCH",
    b"PROPFIND",
]
IN_FLIGHT = [*(plain(b"/%d" % number, size=3000) for number in range(3)), plain(b"/3")]
LENGTH_AND_CHUNKS = chunked(b"abc").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n", 1)  # RFC 9112 6.3, item 3
OK_AROUND_OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(OK), OK)
TRAILER_REQUEST = b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
LONG = b"/" + b"p" * 8000
LONGER = b"/" + b"p" * 8400
CASES: list[tuple[str, Callable[[Wire], None], list[Expected]]] = [
    *((f"method {method.decode()}", ask(get(b"/a", method)), [plain(b"/a", method)]) for method in METHODS),
    ("absolute form", ask(get(b"http://shop:81/a?b")), [plain(b"http://shop:81/a?b")]),
    ("asterisk form", ask(get(b"*", b"OPTIONS")), [plain(b"*", b"OPTIONS")]),
    ("path of 8,000 bytes", ask(get(LONG)), [plain(LONG)]),
    ("many headers", ask(get(b"/a")[:-2] + b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(300)) + b"\r\n"), [plain(b"/a")]),
    ("line feeds alone", ask(b"GET /a HTTP/1.1\nHost: wire\n\n"), [plain(b"/a")]),
    ("two leading empty lines", ask(b"\r\n\r\n" + get(b"/a")), [plain(b"/a")]),
    ("no reason phrase", ask(get(b"/a"), b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello"), [plain(b"/a")]),
    ("status 599", ask(get(b"/a"), OK.replace(b"200", b"599")), [plain(b"/a", status=599)]),
    ("empty body", ask(get(b"/a"), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), [plain(b"/a", size=0)]),
    ("length said twice", ask(get(b"/a"), OK.replace(b"5\r\n", b"5\r\nContent-Length: 5\r\n")), [plain(b"/a")]),
    ("names in capitals", ask(get(b"/a"), OK.replace(b"Content-Length", b"CONTENT-LENGTH")), [plain(b"/a")]),
    ("length and chunks", ask(get(b"/a"), LENGTH_AND_CHUNKS), [plain(b"/a", size=3)]),
    ("chunks with trailers", ask(get(b"/a"), chunked(b"abc", trailer=b"X-Sum: 1\r\n")), [plain(b"/a", size=3)]),
    ("chunks with extensions", ask(get(b"/a"), chunked(b"abc").replace(b"3\r\n", b"3;name=value\r\n")), [plain(b"/a", size=3)]),
    ("no chunks at all", ask(get(b"/a"), chunked()), [plain(b"/a", size=0)]),
    ("chunks that hold a last chunk", ask(get(b"/a"), chunked(b"\r\n0\r\n\r\n", b"x")), [plain(b"/a", size=8)]),
    ("a body like a response", ask(get(b"/a"), OK_AROUND_OK), [plain(b"/a", size=len(OK))]),
    ("a body like a request", ask(post(b"/p", GET + GET)), [(b"POST", b"/p", 200, 2 * len(GET), 5, COMPLETE)]),
    ("a response of 1 MB", large_response, [plain(b"/a", size=1_000_000)]),
    ("a file of 1 MB", file_of(1_000_000), [plain(b"/a", size=1_000_000)]),
    ("a file of 100 MB", file_of(100_000_000), [plain(b"/a", size=100_000_000)]),
    ("an upload of 100 MB", upload_of_100_mb, [(b"POST", b"/p", 200, 100_000_000, 5, COMPLETE)]),
    ("a chunked request with a trailer", ask(TRAILER_REQUEST), [(b"PUT", b"/c", 200, 3, 5, COMPLETE)]),
    ("a chunked request in calls", chunked_request_in_calls, [(b"PUT", b"/c", 200, 8, 5, COMPLETE)]),
    ("a chunk that holds a request", chunk_that_holds_a_request, [(b"PUT", b"/c", 200, 9045, 5, COMPLETE), plain(b"/a")]),
    ("a path that is longer than reported", ask(get(LONGER)), [plain(LONGER)]),
    ("a request of 1 MB", large_request, [(b"POST", b"/p", 200, 1_000_000, 5, COMPLETE)]),
    ("websocket", websocket, [plain(b"/ws", status=101, size=0)]),
    ("tunnel", tunnel, [plain(b"shop:443", b"CONNECT", size=0)]),
    ("twenty pipelined", many_pipelined, [plain(b"/%d" % number, status=400 + number) for number in range(20)]),
    ("pipelined across calls", pipelined_across_calls, [plain(b"/%d" % number) for number in range(3)]),
    ("pipelined in pieces", pipelined_posts_in_pieces, [(b"POST", b"/%d" % number, 200, 50, 5, COMPLETE) for number in range(2)]),
    ("in flight, of known length", in_flight(of_length), IN_FLIGHT),
    ("in flight, joined", in_flight(of_length, is_joined=True), IN_FLIGHT),
    ("in flight, in chunks", in_flight(of_chunks), IN_FLIGHT),
    ("in flight, in chunks with extensions", in_flight(of_other_chunks), IN_FLIGHT),
    ("answers outstanding", answers_outstanding, [plain(b"/0", size=3000), plain(b"/1", status=201), plain(b"/2", status=202)]),
    ("HTTP/1.0 kept alive", keep_alive_of_old, [PLAIN, PLAIN]),
    ("refused expectation", refused_expectation, [(b"PUT", b"/u", 417, 0, 0, COMPLETE), PLAIN]),
    ("two interim responses", two_interim_responses, [PLAIN]),
    ("interim and final at once", interim_and_final_in_one_call, [PLAIN]),
    ("a socket passed to another process", socket_passed_on, [PLAIN]),
    ("server-sent events", server_sent_events, [plain(b"/events", size=45)]),
]  # fmt: skip


@pytest.mark.parametrize(("act", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_crossed_the_wire_is_what_is_reported(
    act: Callable[[Wire], None], expected: list[Expected], wire: Wire, watched: Watched
):
    act(wire)

    watched.expect(*expected)


def test_first_and_last_byte_of_a_stream_are_kept_apart(wire: Wire, watched: Watched):
    server_sent_events(wire)
    watched.until(lambda done: len(done) == 2)

    for role in (Role.SERVER, Role.CLIENT):
        (exchange,) = watched.exchanges(role)
        assert exchange.response_start_ns is not None
        assert exchange.response_end_ns is not None
        assert exchange.response_start_ns < exchange.response_end_ns == exchange.end_ns
