"""Servers that read of the next request before their answer is seen, as Go's net/http does: one byte, in a thread of its own."""

from collections.abc import Callable
from itertools import product

import pytest

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Outcome
from otel_ebpf.records.kinds import EndReason
from tests.unit.exchanges.kernel_model import MS, Connection
from tests.unit.exchanges.test_masking import Redacted

GET = b"GET /first HTTP/1.1\r\n\r\n"
HEAD_OF_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
OK = HEAD_OF_OK + b"hello"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
NEXT = b"DELETE /next HTTP/1.1\r\nHost: shop\r\n\r\n"  # whose first byte may begin the size of a chunk, too
POSTED = b"PUT /next HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"


def post(framing: bytes, body: bytes = b"") -> bytes:
    return b"POST /first HTTP/1.1\r\n%b\r\n\r\n%b" % (framing, body)


FIRST = {
    "GET": ([GET], OK),
    "HEAD": ([b"HEAD /first HTTP/1.1\r\n\r\n"], HEAD_OF_OK),
    "a body in a call of its own": ([post(b"Content-Length: 5"), b"hello"], OK),
    "a body": ([post(b"Content-Length: 5", b"hello")], OK),
    "chunks in a call of their own": ([post(b"Transfer-Encoding: chunked"), CHUNKS], OK),
    "chunks": ([post(b"Transfer-Encoding: chunked", CHUNKS)], OK),
}
CUTS = (1, 3, 7, 20, -3, -2, -1)
Order = Callable[[Connection, bytes, bytes, bytes], Connection]
# What is done with the next request's first bytes, the rest of it, and the answer to the request before.
ORDERS: dict[str, Order] = {
    "both before the answer": lambda wire, begin, rest, answer: wire.request(begin).request(rest).response(answer),
    "in one call before it": lambda wire, begin, rest, answer: wire.request(begin + rest).response(answer),
    "the answer between them": lambda wire, begin, rest, answer: wire.request(begin).response(answer).request(rest),
    "an answer in two calls between them": lambda wire, begin, rest, answer: (
        wire.request(begin).response(answer[:20]).response(answer[20:]).request(rest)
    ),
    "the first in an answer": lambda wire, begin, rest, answer: (
        wire.response(answer[:-1]).request(begin).response(answer[-1:]).request(rest)
    ),
    "both in an answer, at two places": lambda wire, begin, rest, answer: (
        wire.response(answer[:-2]).request(begin).response(answer[-2:-1]).request(rest).response(answer[-1:])
    ),
}


class ToldEarly(Connection):
    """Its answers are told as they are handed over, and sent at once."""

    def __init__(self) -> None:
        super().__init__(is_told_early=True)

    def response(self, data: bytes, *, at_ms: int | None = None, uncopied: int = 0) -> Connection:
        return super().response(data, at_ms=at_ms, uncopied=uncopied).sent()


class Looked(Connection):
    """The progress table is read before each call."""

    def _tick(self, at_ms: int | None) -> None:
        if self.records:
            self.exchanges += self.assembler.watch(self.progress, self.now_ms * MS)
        super()._tick(at_ms)


class Redacting(Connection):
    def __init__(self) -> None:
        super().__init__(assembler=Redacted())


def seen(connection: Connection) -> list[tuple[bytes, bytes, int | None, Outcome]]:
    return [(found.method, found.target, found.status, found.outcome) for found in connection.exchanges]


def expected(first: str, next_method: bytes) -> list[tuple[bytes, bytes, int, Outcome]]:
    methods = [(b"POST", b"/first"), (next_method, b"/next"), *[(b"GET", b"/%d" % number) for number in range(3)]]
    if first in ("GET", "HEAD"):
        methods[0] = (first.encode(), b"/first")
    return [(method, target, 200, Outcome.COMPLETE) for method, target in methods]


def converse(connection: Connection, first: str, order: str, following: bytes, cut: int) -> Connection:
    calls, answer = FIRST[first]
    for call in calls:
        connection.request(call)
    ORDERS[order](connection, following[:cut], following[cut:], answer).response(OK)
    for number in range(3):
        connection.request(b"GET /%d HTTP/1.1\r\n\r\n" % number).response(OK)
    return connection


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("make", [Connection, ToldEarly, Looked, Redacting])
def test_every_request_is_one_wherever_the_next_was_cut(first: str, order: str, make: Callable[[], Connection]):
    """And all that come later on the connection. Numbers are each exchange's own, and what began adds up."""
    for following, cut in product((NEXT, POSTED), CUTS):
        connection = converse(make(), first, order, following, cut)
        connection.wait(1).end(EndReason.CLOSED)

        assert expected(first, following.split()[0]) == seen(connection), cut
        assert [0, 1, 2, 3, 4] == [found.position for found in connection.exchanges], cut
        assembler: Assembler = connection.assembler
        assert (5, {}) == (connection.began + assembler.pipelined, dict(assembler.losses)), cut


def test_its_times_begin_with_its_first_byte():
    connection = Connection().request(GET, at_ms=3).request(NEXT[:1], at_ms=5)
    connection.response(OK, at_ms=6).request(NEXT[1:], at_ms=8).response(OK, at_ms=9)

    first, following = connection.exchanges
    assert (3 * MS, 6 * MS) == (first.request_start_ns, first.response_end_ns)
    assert (5 * MS, 8 * MS, 9 * MS) == (following.request_start_ns, following.request_end_ns, following.response_end_ns)
    assert len(NEXT) == following.request_bytes


def test_a_byte_behind_which_nothing_comes_is_no_request():
    connection = Connection().request(GET).request(b"G").response(OK).end(EndReason.CLOSED)

    assert [(b"GET", b"/first", 200, Outcome.COMPLETE)] == seen(connection)
    assert (1, 0) == (connection.began + connection.assembler.pipelined, connection.assembler.open_count)


def test_a_head_in_pieces_that_turns_out_to_be_none_counts_once():
    connection = Connection().request(GET).request(b"GET /next").response(OK).request(b"GET /next HTTP/1.1\r\n\r\n")

    assert [(b"GET", b"/first", 200, Outcome.COMPLETE)] == seen(connection)
    assert (2, {"not HTTP": 1}) == (connection.began, dict(connection.assembler.losses))


def test_an_answer_to_a_head_that_is_not_whole_is_not_given_to_another():
    """A server that gives up on what it has of it: which request the bytes behind belong to nobody knows."""
    connection = Connection().request(GET).request(b"D").response(OK)
    connection.response(b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n").request(NEXT[1:]).response(OK)
    connection.wait(1).end(EndReason.CLOSED)

    assert [(b"GET", b"/first", 200, Outcome.COMPLETE)] == seen(connection)[:1]
    assert (None,) * len(seen(connection)[1:]) == tuple(status for _, _, status, _ in seen(connection)[1:])
