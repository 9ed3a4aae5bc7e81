"""Responses that are told as they are handed over: their bytes are known then, and their end when they have been sent."""

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome
from otel_ebpf.records.kinds import EndReason
from tests.unit.exchanges.kernel_model import MS, Connection

GET = b"GET /a HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = {
    "length": [OK],
    "length, in calls": [OK[:-3], OK[-3:]],
    "chunks": [CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"],
    "chunks, in calls": [CHUNKED, b"5\r\nhello\r\n", b"0\r\n\r\n"],
    "no body": [b"HTTP/1.1 204 No Content\r\n\r\n"],
}
every_shape = pytest.mark.parametrize("calls", WHOLE.values(), ids=WHOLE)


def handed_over(calls: list[bytes]) -> Connection:
    """All of it, in calls that end before the next one begins; of the last one only the beginning is seen, at 20."""
    connection = Connection(is_told_early=True).request(GET, at_ms=1)
    for number, call in enumerate(calls[:-1]):
        connection.response(call, at_ms=5 + 2 * number).sent()
    return connection.response(calls[-1], at_ms=20)


def only(connection: Connection) -> Exchange:
    assert len(connection.exchanges) == 1, connection.exchanges
    return connection.exchanges[0]


@every_shape
def test_it_ends_when_it_has_been_sent(calls: list[bytes]) -> None:
    """Until then it is open, however long that takes."""
    connection = handed_over(calls).wait(5000)
    assert ([], 1) == (connection.exchanges, connection.assembler.open_count)

    exchange = only(connection.sent(at_ms=9000).wait(1))

    assert (Outcome.COMPLETE, 200 <= (exchange.status or 0) < 205) == (exchange.outcome, True)
    assert (9000 * MS, 9000 * MS, Inferred.NOTHING) == (exchange.end_ns, exchange.response_end_ns, exchange.inferred)


@every_shape
def test_the_next_request_tells_when_it_was_sent(calls: list[bytes]) -> None:
    exchange = only(handed_over(calls).sent(at_ms=30).request(GET, at_ms=50))

    assert (Outcome.COMPLETE, 30 * MS, Inferred.NOTHING) == (exchange.outcome, exchange.end_ns, exchange.inferred)


@every_shape
def test_overtaken_by_the_next_request_it_ends_there(calls: list[bytes]) -> None:
    """What is said later of its end belongs to no other exchange."""
    connection = handed_over(calls).request(GET, at_ms=50).sent(at_ms=51).wait(5)

    exchange = only(connection)
    assert (Outcome.COMPLETE, 50 * MS) == (exchange.outcome, exchange.end_ns)
    assert Inferred.RESPONSE_END_BY_NEXT_REQUEST & exchange.inferred
    connection.response(OK, at_ms=60).sent(at_ms=61).wait(5)
    assert [50 * MS, 61 * MS] == [exchange.end_ns for exchange in connection.exchanges]


@every_shape
@pytest.mark.parametrize(
    ("reason", "outcome"), [(EndReason.RESET, Outcome.RESET), (EndReason.CLOSED, Outcome.SERVER_CLOSED)]
)
def test_what_has_not_been_sent_at_the_end_of_its_connection_is_not_whole(
    calls: list[bytes], reason: EndReason, outcome: Outcome
) -> None:
    """How much of it has left is not known."""
    exchange = only(handed_over(calls).end(reason, at_ms=70))

    assert (outcome, 70 * MS, None) == (exchange.outcome, exchange.end_ns, exchange.response_body_bytes)
    assert exchange.status is not None


@every_shape
def test_what_has_been_sent_is_whole_however_its_connection_ends(calls: list[bytes]) -> None:
    exchange = only(handed_over(calls).sent(at_ms=30).end(EndReason.RESET, at_ms=70))

    assert (Outcome.COMPLETE, 30 * MS) == (exchange.outcome, exchange.end_ns)


def test_bytes_behind_it_that_are_told_with_its_end_do_not_hide_it() -> None:
    """More than its length promises; it was whole before them."""
    exchange = only(handed_over([OK]).response(b"more", at_ms=25).sent(at_ms=30).wait(5))

    assert (Outcome.COMPLETE, 200, 5) == (exchange.outcome, exchange.status, exchange.response_body_bytes)


def test_answers_to_a_client_that_does_not_wait_end_one_after_the_other() -> None:
    connection = Connection(is_told_early=True).request(GET + GET, at_ms=1)
    connection.response(OK, at_ms=10).sent(at_ms=12).response(OK, at_ms=20).sent(at_ms=23).wait(5)

    assert [12 * MS, 23 * MS] == [exchange.end_ns for exchange in connection.exchanges]


@pytest.mark.parametrize("piece", [GET, GET[:1]], ids=["whole", "its first byte"])
def test_a_request_that_is_read_between_two_calls_of_a_response_ends_nothing(piece: bytes) -> None:
    """What the server hands over behind it is still of the response before."""
    connection = Connection(is_told_early=True).request(GET, at_ms=1).response(OK[:-3], at_ms=5).sent(at_ms=6)
    connection.request(piece, at_ms=10).response(OK[-3:], at_ms=20).wait(5000)
    assert [] == connection.exchanges

    connection.sent(at_ms=9000).wait(1)

    exchange = only(connection)
    assert (9000 * MS, 5, Inferred.NOTHING) == (exchange.end_ns, exchange.response_body_bytes, exchange.inferred)
