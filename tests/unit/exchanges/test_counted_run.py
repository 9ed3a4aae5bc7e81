"""Runs that user space has counted as a loss while the kernel goes on with them: each request counts once."""

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.records.kinds import EndReason
from tests.unit.exchanges.kernel_model import RESPONSE, Connection
from tests.unit.exchanges.test_assembler import GET, OK, look_twice

UPLOAD = b"POST /up HTTP/1.1\r\nContent-Length: 9000\r\n\r\n"
NOT_A_HEAD = b" \0\0\0\0\r\n\r\n"


def lose_the_rest(connection: Connection) -> Connection:
    """The ring is full: of the exchange in hand no record comes any more, and its answer moves all the same."""
    connection.lost += 1
    connection._state = RESPONSE
    return connection


def accounted(connection: Connection) -> int:
    """All requests for which there is an exchange or a loss, whoever counted it."""
    assembler = connection.assembler
    return len(connection.exchanges) + sum(assembler.losses.values()) + connection.lost - assembler.recovered


def numbers(exchanges: list[Exchange]) -> list[int]:
    return [exchange.position for exchange in exchanges]


def test_a_request_after_an_upload_that_was_lost_is_no_rest_of_its_body():
    """How much of the body came is not known: the records that would have told are lost."""
    connection = lose_the_rest(Connection().request(UPLOAD)).request(GET).response(OK)

    assert [b"/a?b=1"] == [exchange.target for exchange in connection.exchanges]
    assert 2 == connection.began == accounted(connection)


def test_what_was_not_http_and_then_lost_counts_once():
    connection = lose_the_rest(Connection().request(b"G").request(NOT_A_HEAD)).request(GET).response(OK)

    assert {"not HTTP": 1} == dict(connection.assembler.losses)
    assert 2 == connection.began == accounted(connection)


def test_the_rest_of_a_body_that_is_then_lost_counts_once():
    connection = Connection().request(UPLOAD).response(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    lose_the_rest(connection.request(GET)).request(GET).response(OK)

    assert [b"/up", b"/a?b=1"] == [exchange.target for exchange in connection.exchanges]
    assert 3 == connection.began == accounted(connection)


def test_what_was_not_http_and_then_lost_counts_once_at_the_end_as_well():
    """No further request tells of the loss; the progress table does."""
    connection = lose_the_rest(Connection().request(b"G").request(NOT_A_HEAD))
    connection.is_lost = True
    connection.assembler.end_all(connection.progress)

    assert 1 == connection.began == accounted(connection)


def test_a_loss_that_the_table_told_of_is_not_told_again_by_the_next_request():
    connection = lose_the_rest(Connection().request(GET))
    connection.is_lost = True
    look_twice(connection, connection.progress)
    connection.is_lost = False
    connection.request(GET).response(OK)

    assert 0 == connection.assembler.recovered
    assert 2 == connection.began == accounted(connection)


def test_numbers_go_on_behind_pipelined_requests_and_a_run_that_was_none():
    """Spans get their ids from them: two exchanges of one connection with one number would be one span."""
    connection = Connection().request(GET + GET + GET).response(OK + OK + OK)
    connection.request(b"G").request(NOT_A_HEAD).response(OK).request(GET).response(OK)

    assert [0, 1, 2, 4] == numbers(connection.exchanges)


def test_numbers_go_on_behind_pipelined_requests_and_a_run_that_was_lost():
    connection = Connection().request(GET + GET + GET).response(OK + OK + OK).request(GET)
    connection.lost, connection.is_lost = 1, True
    look_twice(connection, connection.progress)
    connection._state, connection.is_lost = RESPONSE, False
    connection.request(GET).response(OK)

    assert [0, 1, 2, 4] == numbers(connection.exchanges)


def test_nothing_is_kept_of_such_a_run_once_its_connection_has_closed():
    connection = Connection().request(b"G").request(NOT_A_HEAD).end(EndReason.CLOSED)

    assert {} == connection.assembler._runs
