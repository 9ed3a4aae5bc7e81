"""Clients that do not wait: a request is sent while responses to others are still to come."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome, Role
from otel_ebpf.records.kinds import EndReason, Record
from tests.unit.exchanges.kernel_model import MS, Connection

COMPLETE = Outcome.COMPLETE


def ask(number: int, body: bytes = b"") -> bytes:
    if not body:
        return b"GET /%d HTTP/1.1\r\nHost: shop\r\n\r\n" % number
    return b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (number, len(body), body)


def sized(number: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%b" % (210 + number, len(body), body)


def chunked(number: int, body: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d OK\r\nTransfer-Encoding: chunked\r\n\r\n" % (210 + number)
    return head + b"%x%b\r\n%b\r\n0\r\n%b\r\n" % (len(body), extension, body, trailer)


def told(connection: Connection) -> list[tuple[bytes, int | None, Outcome]]:
    return [(found.target, found.status, found.outcome) for found in connection.exchanges]


def whole(*numbers: int) -> list[tuple[bytes, int | None, Outcome]]:
    return [(b"/%d" % number, 210 + number, COMPLETE) for number in numbers]


RESPONSES: dict[str, Callable[[int, bytes], bytes]] = {
    "of known length": sized,
    "in chunks": chunked,
    "in chunks that are not followed": lambda number, body: chunked(number, body, extension=b";e"),
    "with a trailer": lambda number, body: chunked(number, body, trailer=b"X-Sum: 1\r\n"),
}


@pytest.mark.parametrize("make", RESPONSES.values(), ids=RESPONSES)
def test_a_request_sent_while_a_response_is_in_flight_is_the_next_exchange(make: Callable[[int, bytes], bytes]):
    response = make(0, b"x" * 3000)
    connection = Connection().request(ask(0)).response(response[:100], at_ms=5).request(ask(1), at_ms=6)
    connection.response(response[100:], at_ms=7).response(make(1, b"abc"), at_ms=8).wait(300)

    first, second = connection.exchanges
    assert whole(0, 1) == told(connection)
    assert (5 * MS, 7 * MS) == (first.response_start_ns, first.response_end_ns)
    assert (6 * MS, 8 * MS) == (second.request_start_ns, second.response_start_ns)
    assert [3000, 3] == [found.response_body_bytes or 3000 for found in connection.exchanges[:1]] + [3]


@pytest.mark.parametrize("make", [sized, chunked])
def test_sizes_and_ends_are_exact_of_what_is_in_flight(make: Callable[[int, bytes], bytes]):
    responses = [make(number, b"x" * 3000) for number in range(4)]
    connection = Connection().request(ask(0))
    for number, response in enumerate(responses):
        connection.response(response[:100])
        if number < 3:
            connection.request(ask(number + 1))
        connection.response(response[100:2000]).response(response[2000:])

    connection.wait(5)
    assert whole(0, 1, 2, 3) == told(connection)
    assert [(3000, Inferred.NOTHING)] * 4 == [
        (found.response_body_bytes, found.inferred) for found in connection.exchanges
    ]


def test_answers_that_are_outstanding_do_not_go_to_the_requests_behind_them():
    """Three requests are sent before the first answer has ended, each in a call of its own."""
    connection = Connection().request(ask(0)).response(sized(0, b"x" * 50)[:60])
    connection.request(ask(1)).response(sized(0, b"x" * 50)[60:]).request(ask(2))
    connection.response(sized(1, b"a")).response(sized(2, b"b"))

    assert whole(0, 1, 2) == told(connection)
    assert [0, 1, 2] == [found.position for found in connection.exchanges]


def test_each_exchange_has_a_number_of_its_own_also_with_pipelining_in_one_call():
    connection = Connection().request(ask(0) + ask(1)).response(sized(0, b"a"))
    connection.request(ask(2) + ask(3)).response(sized(1, b"b"))
    connection.response(sized(2, b"c")).response(sized(3, b"d")).request(ask(4)).response(sized(4, b"e"))

    assert whole(0, 1, 2, 3, 4) == told(connection)
    assert 5 == len({found.position for found in connection.exchanges})
    assert 3 == connection.began
    assert 2 == connection.assembler.pipelined + sum(run.pipelined_count for run in connection.assembler._runs.values())


def test_a_response_of_which_bytes_went_by_unseen_does_not_swallow_the_next():
    """splice() is not seen: nothing of the body came, the client goes on, and a response begins."""
    connection = Connection().request(ask(0)).response(sized(0, b"x" * 3000)[:-3000])
    connection.request(ask(1)).response(sized(1, b"abc"))

    assert [(b"/0", 210, Outcome.UNKNOWN), *whole(1)] == told(connection)


def test_a_table_that_is_ahead_of_the_ring_does_not_give_a_response_to_the_one_before():
    """The same, where the table tells of the bytes before the record with the head is read."""
    connection = Connection().request(ask(0)).response(sized(0, b"x" * 3000)[:-3000]).request(ask(1))
    kept: list[Record] = []
    feed = connection.assembler.feed
    connection.assembler.feed = lambda record: kept.append(record) or []  # type: ignore[method-assign, func-returns-value]
    connection.response(sized(1, b"abc"))
    connection.exchanges += connection.assembler.watch(connection.progress, 2_000 * MS)
    connection.assembler.feed = feed  # type: ignore[method-assign]
    for record in kept:
        connection.exchanges += connection.assembler.feed(record)

    assert [(b"/0", 210, Outcome.UNKNOWN), *whole(1)] == told(connection)


def test_after_a_loss_a_client_that_does_not_wait_is_given_no_answers_that_may_be_anothers():
    connection = Connection().request(ask(0)).response(sized(0, b"x" * 50)[:60])
    connection.request(ask(1)).response(sized(0, b"x" * 50)[60:]).request(ask(2))
    connection.lost, connection.is_lost = 1, True  # a record of the exchange in hand did not fit
    connection.assembler.feed = lambda _: []  # type: ignore[method-assign]
    connection.response(sized(1, b"a"))
    del connection.assembler.feed  # type: ignore[method-assign]
    connection.is_lost = False
    connection.request(ask(3)).response(sized(2, b"b")).end(EndReason.CLOSED)

    assert [*whole(0), (b"/3", None, Outcome.UNKNOWN)] == told(connection)


def test_nor_is_the_rest_of_a_head_a_request_when_such_an_answer_comes_between_its_pieces():
    """It may answer one that was lost."""
    connection = Connection().request(ask(0)).response(sized(0, b"x" * 50)[:60])
    connection.request(ask(1)).response(sized(0, b"x" * 50)[60:])
    connection.lost, connection.is_lost = 1, True
    connection.assembler.feed = lambda _: []  # type: ignore[method-assign]
    connection.response(sized(1, b"a"))
    del connection.assembler.feed  # type: ignore[method-assign]
    connection.is_lost = False
    connection.request(ask(2)[:1]).response(sized(1, b"a")).request(ask(2)[1:]).response(sized(2, b"b"))
    connection.end(EndReason.CLOSED)

    assert whole(0) == told(connection)
    assert connection.began == 1 + connection.lost + sum(connection.assembler.losses.values())


def test_a_connection_on_which_the_client_never_waits_costs_bounded_memory():
    """What has been reported is forgotten, although the run never ends."""
    connection = Connection().request(ask(0))
    for _ in range(3000):
        response = sized(0, b"x" * 50)
        connection.response(response[:60]).request(ask(0)).response(response[60:])

    (run,) = connection.assembler._runs.values()
    assert 3000 == len(connection.exchanges)
    assert max(len(reader.messages) for reader in run.readers) <= 2  # type: ignore[union-attr]


def test_requests_and_losses_add_up_when_the_connection_ends_with_answers_outstanding():
    connection = Connection().request(ask(0)).response(sized(0, b"x" * 50)[:60]).request(ask(1)).request(ask(2))
    connection.response(sized(0, b"x" * 50)[60:]).end(EndReason.CLOSED)

    closed = Outcome.SERVER_CLOSED
    assert [*whole(0), (b"/1", None, closed), (b"/2", None, closed)] == told(connection)
    assert connection.began + connection.assembler.pipelined == len(connection.exchanges)


def test_where_requests_were_not_seen_a_response_may_be_of_one_of_those():
    """They came behind a body that was not copied; so did their responses, behind chunks that were not."""
    connection = Connection().request(ask(0, b"u" * 20) + b"POST /1 HTTP/1.1\r\nContent-Length: 20\r\n\r\n")
    connection.request(b"u" * 20 + ask(2) + ask(3) + b"GET /4 HTTP/1.1\r\n")
    connection.response(chunked(0, b"y" * 3000) + b"".join(sized(number, b"z") for number in (1, 2, 3)))
    connection.request(b"Host: shop\r\n\r\n").response(sized(4, b"z")).wait(600).end(EndReason.CLOSED)

    assert [(b"/0", 210), (b"/1", None)] == [(found.target, found.status) for found in connection.exchanges]
    assert {Outcome.UNKNOWN} == {found.outcome for found in connection.exchanges}


def test_where_a_request_was_not_seen_a_trailer_may_hold_its_response():
    """So nobody can say that the server has broken off."""
    connection = Connection().request(b"P").request(b"OST /0 HTTP/1.1\r\nContent-Length: 20\r\n\r\n")
    connection.request(b"u" * 20 + b"GET /1 HTTP/1.1\r\n").request(b"Host: shop\r\n\r\n")
    connection.response(RESPONSES["with a trailer"](0, b"y" * 3000) + sized(1, b"z")).wait(600).end(EndReason.CLOSED)

    assert [(b"/0", 210, Outcome.UNKNOWN)] == told(connection)


@st.composite
def traffic(draw: st.DrawFn) -> tuple[int, list[tuple[int, bytes]]]:
    """Exchanges whose bytes are cut into calls, in any order that a client and a server may come to."""
    count = draw(st.integers(1, 5))
    requests = [ask(number, draw(st.sampled_from([b"", b"", b"u" * 20]))) for number in range(count)]
    makes = [draw(st.sampled_from([sized, chunked, RESPONSES["with a trailer"]])) for _ in range(count)]
    bodies = [b"y" * draw(st.sampled_from([0, 5, 700, 3000])) for _ in range(count)]
    responses = [make(number, body or b"z") for number, (make, body) in enumerate(zip(makes, bodies, strict=True))]
    streams = (b"".join(requests), b"".join(responses))
    asked = [sum(map(len, requests[: number + 1])) for number in range(count)]
    answered = [sum(map(len, responses[: number + 1])) for number in range(count)]
    at, calls = [0, 0], []
    while at[1] < len(streams[1]):
        sent = sum(end <= at[0] for end in asked)  # requests that the server has whole
        limits = (len(streams[0]), answered[sent - 1] if sent else 0)
        open_directions = [direction for direction in (0, 1) if at[direction] < limits[direction]]
        direction = draw(st.sampled_from(open_directions))
        left = limits[direction] - at[direction]
        size = left if draw(st.booleans()) else draw(st.integers(1, left))
        calls.append((direction, streams[direction][at[direction] : at[direction] + size]))
        at[direction] += size
    return count, calls


@settings(max_examples=300)
@given(case=traffic(), role=st.sampled_from(Role), looks=st.integers(0, 2))
def test_whoever_sends_when_no_exchange_is_ever_wrong(
    case: tuple[int, list[tuple[int, bytes]]], role: Role, looks: int
):
    """Each request is reported at most once, in order, with its own status or none; all are accounted for."""
    count, calls = case
    connection = Connection(role)
    for direction, data in calls:
        (connection.request if direction == 0 else connection.response)(data)
        if looks == 1:
            connection.exchanges += connection.assembler.watch(connection.progress, connection.now_ms * MS)
        elif looks:
            connection.wait(1)
    connection.wait(600).end(EndReason.CLOSED if role is Role.SERVER else EndReason.PEER_CLOSED)

    numbers = [int(found.target[1:]) for found in connection.exchanges]
    assert sorted(set(numbers)) == numbers
    for number, found in zip(numbers, connection.exchanges, strict=True):
        assert found.status in (210 + number, None), told(connection)
        assert found.outcome in (COMPLETE, Outcome.UNKNOWN), told(connection)
        assert COMPLETE is not found.outcome or found.status is not None
    assembler: Assembler = connection.assembler
    assert connection.began + assembler.pipelined == len(numbers) + sum(assembler.losses.values())
    assert len({found.position for found in connection.exchanges}) == len(numbers) <= count


def test_of_all_such_traffic_most_is_reported_whole():
    """So that the test above does not hold because nothing is reported."""
    connection = Connection().request(ask(0) + ask(1))
    connection.response(sized(0, b"x" * 700) + sized(1, b"y" * 700)[:50]).request(ask(2)).response(
        sized(1, b"y" * 700)[50:]
    )
    connection.response(chunked(2, b"z" * 100)).wait(5)

    assert whole(0, 1, 2) == told(connection)
    assert isinstance(connection.exchanges[0], Exchange)


@pytest.mark.parametrize("make", [sized, chunked])
def test_behind_an_answer_too_many_nothing_is_paired(make: Callable[[int, bytes], bytes]):
    """It was seen before its request, and so were those behind it, perhaps."""
    connection = Connection().request(ask(0)).response(make(0, b"abc")).response(make(1, b"abc"))
    connection.request(ask(1)).request(ask(2)).response(make(2, b"abc"))
    connection.request(ask(3)).response(make(3, b"abc")).end(EndReason.CLOSED)

    assert whole(0) + [(b"/%d" % number, None, Outcome.UNKNOWN) for number in (1, 2, 3)] == told(connection)
