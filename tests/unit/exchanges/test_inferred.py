"""An exchange says which of its fields were inferred, and from what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome, Role
from otel_ebpf.records.kinds import EndReason, RecordFlag
from tests.unit.exchanges.kernel_model import MS, Connection

GET = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def of_unknown_beginning(role: Role = Role.SERVER) -> Connection:
    connection = Connection(role)
    connection._flags &= ~RecordFlag.ROLE_BY_CONNECTION
    return connection


def only(connection: Connection) -> Exchange:
    assert len(connection.exchanges) == 1, connection.exchanges
    return connection.exchanges[0]


def test_an_exchange_whose_bytes_tell_all_has_nothing_inferred():
    connection = Connection().request(GET).response(OK).request(GET).response(CHUNKED_HEAD + b"1\r\nx\r\n0\r\n\r\n")

    assert [Inferred.NOTHING, Inferred.NOTHING] == [found.inferred for found in connection.exchanges]


@pytest.mark.parametrize("request_pieces", [(GET,), (GET[:5], GET[5:])], ids=["plain", "in pieces"])
def test_the_role_on_a_connection_older_than_the_agent_is_inferred(request_pieces: tuple[bytes, ...]):
    connection = of_unknown_beginning()
    for piece in request_pieces:
        connection.request(piece)

    assert Inferred.ROLE_BY_REQUEST == only(connection.response(OK)).inferred


def test_an_end_by_what_looks_like_a_last_chunk_is_inferred():
    """The kernel does not follow a size of eight digits."""
    connection = Connection().request(GET).response(CHUNKED_HEAD).response(b"00000003\r\nabc\r\n0\r\n\r\n").wait(300)

    assert Inferred.RESPONSE_END_BY_LAST_CHUNK == only(connection).inferred


def test_an_end_by_the_next_request_is_inferred():
    """A response without any framing: what the client reads it to is not known."""
    connection = Connection().request(GET).response(UNTIL_CLOSE_HEAD).response(b"abc", at_ms=7).request(GET)

    assert (Inferred.RESPONSE_END_BY_NEXT_REQUEST, 7 * MS) == (only(connection).inferred, only(connection).end_ns)


def test_an_end_by_the_next_response_is_inferred():
    """A trailer ends with an empty line, as much else does: only the next response shows that it was one."""
    connection = (
        Connection().request(GET).response(CHUNKED_HEAD).response(b"00000003\r\nabc\r\n0\r\nX: 1\r\n\r\n", at_ms=7)
    )
    assert not connection.request(GET).exchanges
    connection.response(OK)

    assert [(Inferred.RESPONSE_END_BY_NEXT_RESPONSE, 7 * MS), (Inferred.NOTHING, connection.now_ms * MS)] == [
        (found.inferred, found.end_ns) for found in connection.exchanges
    ]


def test_an_end_by_the_close_is_inferred():
    """RFC 9112 6.3, item 8; a response that breaks off ends so, too."""
    connection = Connection().request(GET).response(UNTIL_CLOSE_HEAD + b"abc").end(EndReason.CLOSED)

    assert Inferred.RESPONSE_END_BY_CLOSE == only(connection).inferred


def test_a_close_within_a_response_of_known_length_is_seen():
    connection = Connection().request(GET).response(OK[:-1]).end(EndReason.CLOSED)

    assert (Outcome.SERVER_CLOSED, Inferred.NOTHING) == (only(connection).outcome, only(connection).inferred)


def test_the_end_of_a_response_that_was_only_counted_is_told_when_the_next_begins():
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n"
    connection = Connection().request(GET + GET).response(large, at_ms=10)
    connection.response(b"x" * 3000, at_ms=20).response(OK, at_ms=50)

    assert [(Inferred.NOTHING, 20 * MS), (Inferred.NOTHING, 50 * MS)] == [
        (found.inferred, found.end_ns) for found in connection.exchanges
    ]


def test_a_time_that_was_counted_in_between_is_exact():
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n"
    connection = Connection().request(GET + GET).response(large, at_ms=10)
    connection.response(b"x" * 2000, at_ms=20).wait(5).response(b"x" * 1000, at_ms=30).wait(5).response(OK, at_ms=50)

    assert [(Inferred.NOTHING, 30 * MS), (Inferred.NOTHING, 50 * MS)] == [
        (found.inferred, found.end_ns) for found in connection.exchanges
    ]


def test_a_request_whose_last_bytes_no_record_tells_of_ended_before_the_next_began():
    """Pipelined behind a body that was only counted."""
    connection = Connection().request(b"POST /up HTTP/1.1\r\nContent-Length: 900\r\n\r\n", at_ms=10)
    connection.request(b"u" * 900, at_ms=20).request(GET, at_ms=30).response(OK).response(OK)

    upload, other = connection.exchanges
    assert (Inferred.REQUEST_END_TIME, 30 * MS) == (upload.inferred, upload.request_end_ns)
    assert (Inferred.NOTHING, 30 * MS) == (other.inferred, other.request_end_ns)


def test_the_time_of_a_close_that_only_the_progress_table_told_is_that_of_the_look():
    connection = Connection().request(GET).response(OK[:-1])
    connection._send = lambda *_, **__: None  # type: ignore[method-assign]  # its record did not fit
    connection.end(EndReason.CLOSED, at_ms=20).wait(10)

    assert (Outcome.SERVER_CLOSED, Inferred.END_TIME) == (only(connection).outcome, only(connection).inferred)


@given(cut=st.integers(1, len(OK) - 1), request_cut=st.integers(1, len(GET) - 1), role=st.sampled_from(Role))
def test_what_is_framed_is_never_inferred_however_it_is_cut(cut: int, request_cut: int, role: Role):
    connection = Connection(role).request(GET[:request_cut]).request(GET[request_cut:])
    connection.response(OK[:cut]).response(OK[cut:]).wait(5)

    assert Inferred.NOTHING == only(connection).inferred
