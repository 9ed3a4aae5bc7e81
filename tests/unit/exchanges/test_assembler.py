import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_ebpf.exchanges.assembler import Assembler, ReadProgress
from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome, Role, Unknown
from otel_ebpf.records.kinds import EndReason, Kind, RecordFlag
from otel_ebpf.records.layouts import MAX_HEAD_BYTES
from tests.unit.exchanges.kernel_model import MS, Connection

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: shop\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def only(connection: Connection) -> Exchange:
    assert len(connection.exchanges) == 1, connection.exchanges
    return connection.exchanges[0]


def summary(exchange: Exchange) -> tuple[bytes, bytes, int | None, int | None, int | None, Outcome]:
    return (
        exchange.method,
        exchange.target,
        exchange.status,
        exchange.request_body_bytes,
        exchange.response_body_bytes,
        exchange.outcome,
    )


def test_a_request_and_its_response_in_one_call_each_are_an_exchange():
    exchange = only(Connection().request(GET, at_ms=10).response(OK, at_ms=14))

    assert (b"GET", b"/a?b=1", 200, 0, 5, Outcome.COMPLETE) == summary(exchange)
    assert (b"shop", b"1.1") == (exchange.host, exchange.version)
    assert (10 * MS, 10 * MS, 14 * MS, 14 * MS, 14 * MS) == (
        exchange.request_start_ns,
        exchange.request_end_ns,
        exchange.response_start_ns,
        exchange.response_end_ns,
        exchange.end_ns,
    )
    assert (len(GET), len(OK), Unknown.NOTHING) == (exchange.request_bytes, exchange.response_bytes, exchange.unknown)


def test_a_response_in_many_calls_ends_with_its_last_byte():
    """The head promises 3,000 bytes; they come in three calls, which the kernel only counts."""
    connection = Connection().request(GET).response(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n", at_ms=20)
    for at_ms in (30, 40, 50):
        connection.response(b"x" * 1000, at_ms=at_ms)
    assert not connection.exchanges

    exchange = only(connection.wait(5))

    assert (b"GET", b"/a?b=1", 200, 0, 3000, Outcome.COMPLETE) == summary(exchange)
    assert (20 * MS, 50 * MS) == (exchange.response_start_ns, exchange.response_end_ns)


def test_the_next_request_ends_a_response_whose_last_bytes_were_only_counted():
    connection = Connection().request(GET).response(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    connection.response(b"123456789", at_ms=30).request(GET, at_ms=90)

    exchange = only(connection)

    assert (Outcome.COMPLETE, 30 * MS) == (exchange.outcome, exchange.end_ns)


@pytest.mark.parametrize("reason", [EndReason.CLOSED, EndReason.PEER_CLOSED])
def test_a_response_without_length_ends_when_the_connection_closes(reason: EndReason):
    """RFC 9112 6.3, item 8."""
    role = Role.SERVER if reason == EndReason.CLOSED else Role.CLIENT
    connection = Connection(role).request(GET).response(b"HTTP/1.0 200 OK\r\n\r\nhi", at_ms=3)
    assert not connection.wait(900).exchanges

    exchange = only(connection.end(reason))

    assert (b"GET", b"/a?b=1", 200, 0, 2, Outcome.COMPLETE) == summary(exchange)
    assert 3 * MS == exchange.end_ns


def test_a_response_without_length_that_is_reset_is_not_complete():
    connection = Connection().request(GET).response(b"HTTP/1.0 200 OK\r\n\r\nhi").end(EndReason.RESET, at_ms=8)

    assert (Outcome.RESET, 8 * MS) == (only(connection).outcome, only(connection).end_ns)


def test_a_chunked_response_in_one_call_is_complete_at_once():
    exchange = only(Connection().request(GET).response(CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n"))

    assert (5, Outcome.COMPLETE) == (exchange.response_body_bytes, exchange.outcome)


def test_a_chunked_response_in_calls_that_are_only_counted_ends_by_its_last_chunk_and_quiet():
    """A chunk may hold the bytes of a last chunk: they are believed when nothing follows for a while."""
    connection = Connection().request(GET).response(CHUNKED_HEAD)
    connection.response(b"2\r\n\r\n0\r\n\r\n"[:10], at_ms=20).wait(10)
    assert not connection.exchanges
    connection.response(b"3\r\nabc\r\n", at_ms=40).wait(300)
    assert not connection.exchanges
    connection.response(b"0\r\n\r\n", at_ms=400).wait(300)

    exchange = only(connection)

    assert (Outcome.COMPLETE, 400 * MS, None) == (exchange.outcome, exchange.end_ns, exchange.response_body_bytes)
    assert Unknown.RESPONSE_BODY == exchange.unknown


def test_a_chunked_response_with_nothing_but_the_last_chunk_ends():
    connection = Connection().request(GET).response(CHUNKED_HEAD).response(b"0\r\n\r\n").wait(300)

    assert Outcome.COMPLETE is only(connection).outcome


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n"),
        (b"GET", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
    ],
)
def test_responses_that_have_no_body_end_with_their_head(method: bytes, response: bytes):
    """RFC 9112 6.3, item 1."""
    exchange = only(Connection().request(method + b" / HTTP/1.1\r\n\r\n").response(response))

    assert (0, Outcome.COMPLETE) == (exchange.response_body_bytes, exchange.outcome)


def test_an_interim_response_is_not_the_response():
    """RFC 9110 15.2: 100 Continue, then the body, then the answer."""
    connection = Connection().request(b"PUT /u HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n", at_ms=1)
    connection.response(b"HTTP/1.1 100 Continue\r\n\r\n", at_ms=2).request(b"ABCDEF", at_ms=3)

    exchange = only(connection.response(OK, at_ms=4))

    assert (b"PUT", b"/u", 200, 6, 5, Outcome.COMPLETE) == summary(exchange)
    assert (3 * MS, 4 * MS) == (exchange.request_end_ns, exchange.response_start_ns)


def test_the_first_byte_of_a_request_may_be_read_alone():
    """net/http reads one byte ahead on a connection that it keeps."""
    connection = Connection().request(b"G", at_ms=5).request(GET[1:], at_ms=6)

    exchange = only(connection.response(OK))

    assert (b"GET", b"/a?b=1", 5 * MS) == (exchange.method, exchange.target, exchange.request_start_ns)


def test_a_head_in_many_calls_is_one_head():
    connection = Connection()
    for index in range(len(GET)):
        connection.request(GET[index : index + 1])

    assert b"/a?b=1" == only(connection.response(OK)).target


def test_requests_in_one_call_are_told_apart():
    """RFC 9112 9.3.2: the answers come in the order of the requests."""
    connection = Connection().request(
        GET + b"POST /2 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc" + b"GET /3 HTTP/1.1\r\n\r\n"
    )
    connection.response(OK).response(OK.replace(b"200", b"201")).response(OK.replace(b"200", b"404"))

    assert [(b"/a?b=1", 200, 0), (b"/2", 201, 3), (b"/3", 404, 0)] == [
        (exchange.target, exchange.status, exchange.request_body_bytes) for exchange in connection.exchanges
    ]
    assert 3 == len({exchange.position for exchange in connection.exchanges})


def test_a_client_that_leaves_before_the_answer_gives_no_status():
    connection = Connection().request(GET).end(EndReason.CLOSED, at_ms=9, flags=RecordFlag.PEER_SHUTDOWN)

    assert (None, Outcome.CLIENT_CLOSED, 9 * MS) == (
        only(connection).status,
        only(connection).outcome,
        only(connection).end_ns,
    )


def test_a_server_that_closes_in_mid_response_is_told():
    connection = Connection().request(GET).response(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc")

    exchange = only(connection.end(EndReason.CLOSED))

    assert (b"GET", b"/a?b=1", 200, 0, 3, Outcome.SERVER_CLOSED) == summary(exchange)


def test_the_rest_of_a_body_sent_after_an_early_answer_is_no_request():
    """The body looks like a request; its length says that it is none."""
    trap = b"GET /trap HTTP/1.1\r\n\r\n"
    connection = Connection().request(b"POST /up HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(trap))
    connection.response(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").request(trap)
    connection.end(EndReason.CLOSED)

    assert [b"/up"] == [exchange.target for exchange in connection.exchanges]


def test_a_head_longer_than_what_is_captured_is_marked():
    head = b"GET /long HTTP/1.1\r\nHost: shop\r\nX-Pad: " + b"x" * 70_000 + b"\r\n\r\n"

    exchange = only(Connection().request(head).response(OK))

    assert (b"/long", b"shop", 200) == (exchange.target, exchange.host, exchange.status)
    assert Unknown.REQUEST_HEAD_CUT | Unknown.REQUEST_BODY == exchange.unknown


def test_a_target_longer_than_what_is_captured_is_marked():
    exchange = only(Connection().request(b"GET /" + b"p" * 70_000 + b" HTTP/1.1\r\n\r\n").response(OK))

    assert (b"/" + b"p" * (MAX_HEAD_BYTES - 5), b"") == (exchange.target, exchange.version)
    assert Unknown.REQUEST_HEAD_CUT in exchange.unknown


def test_bytes_that_are_not_http_are_counted_not_reported():
    connection = Connection().request(b"HELO mail\r\n").response(b"250 ok\r\n")

    assert [] == connection.exchanges
    assert 1 == connection.assembler.losses["not HTTP"]


def test_when_the_table_is_full_the_oldest_connection_gives_way_and_is_counted():
    assembler = Assembler(max_connections=1)
    record = Connection().request(GET).records[0]
    assembler.feed(record)

    assembler.feed(record._replace(connection=8))

    assert {"evicted": 1} == dict(assembler.losses)
    assert 1 == assembler.open_count


def overtaking(connection: Connection, position: int, lost: int) -> ReadProgress:
    """The table's slot once later exchanges have taken it."""
    newest = connection.progress(7, connection.began - 1)
    assert newest is not None
    return lambda *_: newest._replace(position=position, is_lost=True, lost_count=lost)


def look_twice(connection: Connection, read_progress: ReadProgress) -> None:
    for at_ms in (5_000, 10_000):
        connection.exchanges += connection.assembler.watch(read_progress, at_ms * 1_000_000)


def test_an_exchange_lost_with_all_that_followed_it_is_not_open_as_well() -> None:
    """Its connection may close without another word: 300 exchanges, all counted by the kernel."""
    connection = Connection().request(GET)
    look_twice(connection, overtaking(connection, position=299, lost=300 & 0xFF))

    assert 0 == connection.assembler.open_count
    connection.assembler.end_all(lambda *_: None)
    assert {} == dict(connection.assembler.losses)


def test_an_exchange_whose_followers_alone_were_lost_is_still_open() -> None:
    connection = Connection().request(GET)
    reading = overtaking(connection, position=299, lost=299 & 0xFF)
    look_twice(connection, reading)
    connection.assembler.end_all(reading)

    assert {"open at the end": 1} == dict(connection.assembler.losses)


def test_a_table_that_runs_ahead_of_the_ring_proves_nothing() -> None:
    """What has moved since the last look: records of it may be waiting."""
    connection = Connection().request(GET)
    for second in range(1, 6):
        connection.assembler.watch(overtaking(connection, position=second, lost=second + 1), second * 2_000_000_000)

    assert 1 == connection.assembler.open_count


@pytest.mark.parametrize("is_running", [True, False])
def test_an_exchange_that_was_reported_before_it_was_lost_with_its_followers_is_recovered(is_running: bool) -> None:
    connection = Connection().request(GET).response(OK)
    reading = overtaking(connection, position=9, lost=10)
    if is_running:
        look_twice(connection, reading)
    else:
        connection.assembler.end_all(reading)

    assert 1 == len(connection.exchanges)
    assert 1 == connection.assembler.recovered
    assert {} == dict(connection.assembler.losses)


def test_every_loss_is_counted_for_the_service_it_happened_to():
    """By the service of the record that began the run, whoever else shares the table."""
    assembler = Assembler(max_connections=2)
    get = Connection().request(GET).records[0]
    for connection, service_pid in ((1, 10), (2, 20), (3, 10)):
        assembler.feed(get._replace(connection=connection, service_pid=service_pid))
    assembler.feed(get._replace(connection=4, service_pid=30, payload=b"HELO mail\r\n"))
    assembler.feed(get._replace(connection=4, kind=Kind.END, reason=EndReason.CLOSED))
    pipelined = get._replace(
        connection=5, service_pid=30, payload=GET + GET, request_bytes=2 * len(GET), total_bytes=2 * len(GET)
    )
    assembler.feed(pipelined)
    open_before = assembler.open_by_service()
    assembler.end_all(lambda *_: None)

    assert {10: (1, 0), 30: (2, 1)} == open_before
    assert {"evicted": 1, "open at the end": 1} == dict(assembler.ledger.of(10).tally)
    assert {"evicted": 1} == dict(assembler.ledger.of(20).tally)
    assert {"not HTTP": 1, "open at the end": 2} == dict(assembler.ledger.of(30).tally)
    assert (0, 0, 1) == tuple(assembler.ledger.of(pid).pipelined for pid in (10, 20, 30))


BODIES = st.binary(max_size=40)


@st.composite
def exchanges_on_the_wire(draw: st.DrawFn) -> tuple[bytes, bytes, tuple[bytes, bytes, int]]:
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"PURGE"]))
    target = b"/" + draw(st.binary(max_size=12)).hex().encode()
    request_body = draw(BODIES) if method in (b"POST", b"PUT") else b""
    request = method + b" " + target + b" HTTP/1.1\r\nHost: h\r\n"
    if request_body or method in (b"POST", b"PUT"):
        request += b"Content-Length: %d\r\n" % len(request_body)
    status = draw(st.sampled_from([200, 201, 204, 304, 404, 500]))
    body = b"" if method == b"HEAD" or status in (204, 304) else draw(BODIES)
    response = b"HTTP/1.1 %d Reason\r\n" % status
    if status in (204, 304) or method == b"HEAD":
        framed = b"\r\n"
    elif draw(st.booleans()):
        framed = b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        chunks = [body[i : i + 7] for i in range(0, len(body), 7)]
        framed = b"Transfer-Encoding: chunked\r\n\r\n"
        framed += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return request + b"\r\n" + request_body, response + framed, (method, target, status)


def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(set(draw(st.lists(st.integers(1, max(1, len(data) - 1)), max_size=6))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@settings(max_examples=400)
@given(st.data())
def test_however_the_bytes_are_cut_into_calls_the_exchanges_are_the_same(data: st.DataObject):
    """Never a wrong one: each is what was sent, in order, or it is missing."""
    connection, sent = Connection(is_told_early=data.draw(st.booleans())), []
    for _ in range(data.draw(st.integers(1, 4))):
        request, response, expected = data.draw(exchanges_on_the_wire())
        sent.append(expected)
        for piece in pieces(data.draw, request):
            connection.request(piece)
        for piece in pieces(data.draw, response):
            connection.response(piece).sent()
    connection.wait(300).end(EndReason.CLOSED)

    assert sent == [(exchange.method, exchange.target, exchange.status) for exchange in connection.exchanges]
    assert all(exchange.outcome is Outcome.COMPLETE for exchange in connection.exchanges)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=12), st.sampled_from(EndReason), st.data())
def test_whatever_moves_every_run_is_an_exchange_or_a_counted_loss(
    calls: list[tuple[bool, bytes]], reason: EndReason, data: st.DataObject
):
    """Pieces of HTTP and of anything else, in any order: nothing raises, nothing is counted twice."""
    pieces_of_http = [GET, OK, CHUNKED_HEAD, b"5\r\nhello\r\n", b"0\r\n\r\n", GET[:9], GET[9:], GET + GET, OK + OK]
    connection = Connection(data.draw(st.sampled_from(Role)), is_told_early=data.draw(st.booleans()))
    for is_request, noise in calls:
        piece = data.draw(st.sampled_from([noise, *pieces_of_http]))
        (connection.request if is_request else connection.response)(piece)
        if data.draw(st.booleans()):
            connection.sent()
    connection.wait(300).end(reason)
    connection.assembler.end_all(connection.progress)

    assembler = connection.assembler
    accounted = len(connection.exchanges) + sum(assembler.losses.values())
    assert connection.began + assembler.pipelined == accounted


def test_heads_of_any_length_and_bytes_cost_bounded_memory():
    """A body in chunks that never ends is not kept."""
    connection = Connection().request(GET).response(CHUNKED_HEAD)
    for _ in range(100):
        connection.response(b"HTTP/1.1 x" + b"y" * 2000)

    assert 0 == len(connection.exchanges)


def test_an_exchange_that_the_kernel_lost_is_not_reported():
    """Its response did not fit into the ring: the kernel has counted it, and the next record says so."""
    connection = Connection().request(GET)
    connection.lost = 1
    connection._state = 2  # its response was not told
    connection.request(GET.replace(b"/a", b"/b")).response(OK)

    assert [b"/b?b=1"] == [exchange.target for exchange in connection.exchanges]
    assert 0 == connection.assembler.recovered


def test_an_exchange_that_was_reported_before_the_kernel_lost_its_end_is_not_lost():
    connection = Connection().request(GET).response(OK)
    connection.lost = 1
    connection.request(GET).response(OK)

    assert 2 == len(connection.exchanges)
    assert 1 == connection.assembler.recovered


def test_a_further_request_in_a_run_that_was_reported_is_another_exchange():
    """The second request was sent before the first answer; the kernel cuts them as one."""
    connection = Connection().request(GET).request(GET.replace(b"/a", b"/b"))
    connection.response(OK).response(OK.replace(b"200", b"202"))

    assert [(b"/a?b=1", 200), (b"/b?b=1", 202)] == [
        (exchange.target, exchange.status) for exchange in connection.exchanges
    ]


def test_an_exchange_is_reported_once_whatever_follows_it():
    connection = Connection().request(GET).response(OK[:-5]).response(OK[-5:]).wait(5)
    connection.wait(2000).response(b"more than was promised").wait(2000).end(EndReason.CLOSED)

    assert 1 == len(connection.exchanges)


EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"


def test_an_answer_before_the_end_of_the_request_waits_for_its_size():
    """nginx's `return` answers first, then reads the body and drops it."""
    connection = Connection().request(b"POST /up HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc").response(EARLY, at_ms=10)
    assert not connection.wait(20).exchanges

    exchange = only(connection.request(b"defghi", at_ms=40).wait(20))

    assert (b"POST", b"/up", 413, 9, 0, Outcome.COMPLETE) == summary(exchange)
    assert (10 * MS, 10 * MS) == (exchange.response_end_ns, exchange.end_ns)


def test_an_answer_does_not_wait_for_the_request_for_ever():
    connection = Connection().request(b"POST /up HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc").response(EARLY)

    exchange = only(connection.wait(600))

    assert (b"POST", b"/up", 413, None, 0, Outcome.COMPLETE) == summary(exchange)


def test_a_refused_expectation_does_not_wait_for_a_body():
    """RFC 9110 10.1.1."""
    head = b"PUT /u HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n"

    assert 413 == only(Connection().request(head).response(EARLY)).status


def test_a_head_in_several_reads_that_is_longer_than_what_is_captured_is_marked():
    """Go reads 4 KB at a time."""
    head = b"GET /" + b"p" * 70_000 + b" HTTP/1.1\r\nHost: shop\r\n\r\n"
    connection = Connection()
    for start in range(0, len(head), 4096):
        connection.request(head[start : start + 4096])

    exchange = only(connection.response(OK))

    assert (b"/" + b"p" * (65536 - 5), 200, Outcome.COMPLETE) == (exchange.target, exchange.status, exchange.outcome)
    assert Unknown.REQUEST_HEAD_CUT in exchange.unknown


def test_an_answer_to_a_head_that_never_was_whole_is_reported():
    """A server refuses what it will not read to the end."""
    connection = Connection().request(b"GET /a HTTP/1.1\r\nHost: sh")
    connection.response(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    assert (b"GET", b"/a", 408) == (only(connection).method, only(connection).target, only(connection).status)
    assert Unknown.REQUEST_HEAD_CUT in only(connection).unknown


def test_a_request_read_in_one_call_with_the_rest_of_a_body_is_found():
    """The body's answer came early, the client has gone on, and the server reads both at once."""
    connection = (
        Connection().request(b"POST /up HTTP/1.1\r\nContent-Length: 9000\r\n\r\n" + b"u" * 1000).response(EARLY)
    )
    connection.request(b"u" * 8000 + GET).response(OK)

    assert [(b"/up", 413, 9000), (b"/a?b=1", 200, 0)] == [
        (exchange.target, exchange.status, exchange.request_body_bytes) for exchange in connection.exchanges
    ]


def test_a_request_with_a_body_that_shares_a_call_with_an_earlier_body_is_found():
    """The length of the first body tells where it begins."""
    connection = Connection().request(b"POST /up HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc").response(EARLY)
    connection.request(b"defghi" + b"POST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi").response(OK).end(
        EndReason.CLOSED
    )

    assert [(b"/up", 413), (b"/b", 200)] == [(exchange.target, exchange.status) for exchange in connection.exchanges]


def test_a_request_hidden_behind_a_body_is_counted():
    """Its own body follows in the same call, and so much of it that the captured end does not reach back to its head."""
    connection = Connection().request(b"POST /up HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc").response(EARLY)
    connection.request(b"defghi" + b"POST /b HTTP/1.1\r\nContent-Length: 3000\r\n\r\n" + b"h" * 3000)
    connection.response(OK).end(EndReason.CLOSED)

    assert [(b"/up", 413)] == [(exchange.target, exchange.status) for exchange in connection.exchanges]
    assert 1 == connection.assembler.losses["head in one call with a body"] == connection.assembler.pipelined


def test_an_exchange_whose_loss_no_record_tells_of_is_not_open_at_the_end():
    """Its answer was lost, and so was the next request: only the progress table says so."""
    connection = Connection().request(GET)
    connection.lost, connection.is_lost = 2, True
    connection._position += 1

    connection.assembler.end_all(connection.progress)

    assert {} == {reason: count for reason, count in connection.assembler.losses.items() if count}


def test_an_exchange_that_was_answered_before_the_next_was_lost_is_not_lost():
    connection = Connection().request(GET)
    connection.lost, connection.is_lost = 1, True
    connection._position += 1

    connection.assembler.end_all(connection.progress)

    assert {"open at the end": 1} == dict(connection.assembler.losses)


def test_a_request_read_in_one_call_with_the_last_chunk_of_an_upload_is_found():
    """The upload was answered early; the server reads its end and the next request at once."""
    connection = Connection().request(b"PUT /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").response(EARLY)
    connection.request(b"1388\r\n" + b"u" * 3000).request(b"u" * 2000 + b"\r\n0\r\n\r\n" + GET).response(OK)

    assert [(b"/up", 413), (b"/a?b=1", 200)] == [
        (exchange.target, exchange.status) for exchange in connection.exchanges
    ]
    assert [None, 0] == [exchange.request_body_bytes for exchange in connection.exchanges]


def test_the_size_of_a_chunked_response_is_not_that_of_its_end_alone():
    """A piece of the body begins as a head does: the kernel takes it for one and counts chunks anew behind it."""
    connection = Connection().request(GET).response(CHUNKED_HEAD).response(b"3\r\n")
    connection.response(b"H").response(b"\r\n").response(b"\r\n")
    connection.response(b"2\r\nok\r\n").response(b"0\r\n\r\n").wait(300)

    exchange = only(connection)

    assert (200, Outcome.COMPLETE) == (exchange.status, exchange.outcome)
    assert exchange.response_body_bytes in (None, 5)


def test_the_size_of_a_response_of_known_length_is_its_length_behind_a_chunked_one():
    connection = Connection().request(GET).request(GET).response(CHUNKED_HEAD + b"3\r\nyes\r\n").wait(100)
    connection.response(b"0\r\n\r\nHTTP/1.1 2").response(b"00 OK\r\nContent-Length: 5\r\n\r\nhel").response(b"lo")

    assert [3, 5] == [exchange.response_body_bytes for exchange in connection.exchanges]


def test_the_size_of_a_chunked_response_counts_a_chunk_that_ends_like_a_head():
    """It came in one call with the head: the kernel takes it for a part of that."""
    connection = Connection().request(GET).response(CHUNKED_HEAD + b"7\r\nhello\r\n\r\n")
    connection.response(b"2\r\nok\r\n").response(b"0\r\n\r\n").wait(300)

    assert only(connection).response_body_bytes in (None, 9)


def test_a_count_of_chunks_that_was_given_up_is_no_size():
    """A size of eight digits is not read by the kernel: what it counted before is not all."""
    connection = Connection().request(GET).response(CHUNKED_HEAD).response(b"5\r\nhello\r\n").wait(100)
    connection.response(b"00000005\r\nworld\r\n").response(b"0\r\n\r\n").wait(100).request(GET)

    assert [(Outcome.COMPLETE, None)] == [
        (exchange.outcome, exchange.response_body_bytes) for exchange in connection.exchanges
    ]


def test_the_size_of_a_chunked_response_is_not_that_of_the_one_before():
    """Both came in one call; the kernel has followed the first, which has trailers."""
    first = CHUNKED_HEAD + b"2\r\nok\r\n0\r\nA: b\r\n\r\n"
    second = CHUNKED_HEAD + b"1770\r\n" + b"x" * 6000 + b"\r\n0\r\n\r\n"
    connection = Connection().request(GET + GET).response(first + second).wait(300)

    assert [(200, 2), (200, None)] == [
        (exchange.status, exchange.response_body_bytes) for exchange in connection.exchanges
    ]


def test_requests_behind_chunks_in_calls_of_their_own_get_their_own_answers():
    """The client pipelines; the second request's head begins in the call that ends the first one's body."""
    upload = b"Transfer-Encoding: chunked\r\n\r\n"
    connection = Connection().request(b"POST /one HTTP/1.1\r\n" + upload)
    connection.request(b"5\r\nhello\r\n0\r\n\r\nPOST /two HTTP/1.1\r\nTransfer-Enc")
    connection.request(b"oding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\nGET /three HTTP/1.1\r\n\r\n")
    connection.response(OK).response(OK.replace(b"200", b"202")).response(OK.replace(b"200", b"203"))
    connection.request(GET)

    assert [(b"/one", 200, 5), (b"/two", 202, 3), (b"/three", 203, 0)] == [
        (each.target, each.status, each.request_body_bytes) for each in connection.exchanges
    ]


def test_a_request_behind_a_chunked_body_that_was_seen_to_its_end_is_no_inference():
    connection = Connection().request(b"POST /one HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.request(b"5\r\nhello\r\n0\r\n\r\n" + GET).response(OK + OK)

    assert [(5, Inferred.NOTHING), (0, Inferred.NOTHING)] == [
        (each.request_body_bytes, each.inferred & ~Inferred.REQUEST_END_TIME) for each in connection.exchanges
    ]


CHUNKED_PIECES = [
    pytest.param([b"00000005\r\nhello\r\n", b"0\r\nTrailer: x\r\n\r\n"], id="a long size and a trailer"),
    pytest.param([b"5\r\nhello\r\n", b"0\r\n\r\n" + OK[:-2], b"lo"], id="the next response in the same call"),
]


@pytest.mark.parametrize("reason", [EndReason.CLOSED, EndReason.RESET, EndReason.TIMED_OUT])
@pytest.mark.parametrize("pieces", CHUNKED_PIECES)
def test_a_response_whose_end_may_have_been_there_has_not_failed(pieces: list[bytes], reason: EndReason):
    """Nobody has followed its chunks to where the connection ended."""
    connection = Connection().request(GET + GET).response(CHUNKED_HEAD)
    for piece in pieces:
        connection.response(piece)
    connection.end(reason)

    assert [Outcome.UNKNOWN] * 2 == [exchange.outcome for exchange in connection.exchanges]


def test_a_response_behind_an_end_that_was_inferred_has_not_failed():
    """The last chunk at the end of all may be its own."""
    connection = Connection().request(GET + GET).response(CHUNKED_HEAD + b"5\r\n")
    connection.response(b"hello\r\n0\r\n\r\n" + CHUNKED_HEAD + b"0\r\n\r\n").end(EndReason.CLOSED)

    assert [Outcome.COMPLETE, Outcome.UNKNOWN] == [exchange.outcome for exchange in connection.exchanges]


@pytest.mark.parametrize("pieces", [[], [b"5\r\nhel"], [b"5\r\nhello\r\n"]])
def test_a_response_whose_chunks_break_off_has_failed(pieces: list[bytes]):
    connection = Connection().request(GET).response(CHUNKED_HEAD)
    for piece in pieces:
        connection.response(piece)

    assert Outcome.SERVER_CLOSED == only(connection.end(EndReason.CLOSED)).outcome


@pytest.mark.parametrize("first_bytes", [1, 3, len(GET)])
def test_a_request_behind_a_chunked_one_whose_answer_came_with_an_interim_one_is_another(first_bytes: int):
    """To the kernel no answer has come yet; what was not captured of the body hides where it ends."""
    connection = Connection().request(b"POST /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.request(b"5\r\nhello\r\n0\r\n\r\n").response(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    connection.request(GET[:first_bytes]).request(GET[first_bytes:]).response(OK)

    assert [(b"POST", b"/up"), (b"GET", b"/a?b=1")] == [
        (exchange.method, exchange.target) for exchange in connection.exchanges
    ]
    assert {Outcome.COMPLETE} == {exchange.outcome for exchange in connection.exchanges}


def test_an_answer_behind_an_end_that_was_inferred_is_not_given_to_the_next_request():
    """Between what was captured of the first response and its end, the second one may have come."""
    connection = Connection().request(GET + GET + GET).response(CHUNKED_HEAD + b"5\r\n")
    connection.response(b"hello\r\n0\r\n\r\n" + OK + CHUNKED_HEAD[:40]).response(CHUNKED_HEAD[40:] + b"0\r\n\r\n").wait(
        900
    )
    connection.response(OK.replace(b"200", b"203")).end(EndReason.CLOSED)

    assert 203 not in [exchange.status for exchange in connection.exchanges]
    assert Outcome.UNKNOWN == connection.exchanges[-1].outcome


@pytest.mark.parametrize("first_bytes", [1, 9, 30])
def test_an_answer_behind_what_was_taken_for_a_trailer_is_not_given_to_the_next_request(first_bytes: int):
    """Three responses came in the call that ended the chunks; the head of the next one comes in pieces."""
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"  # ends as a trailer does
    connection = Connection().request(GET * 4).response(CHUNKED_HEAD + b"1\r\na\r\n0")
    connection.response(b"\r\nA: b\r\n\r\n" + empty + empty + empty).request(GET + GET)
    answer = empty.replace(b"200", b"203")
    connection.response(answer[:first_bytes]).response(answer[first_bytes:] + answer).end(EndReason.CLOSED)

    assert [(b"/a?b=1", 200)] == [(each.target, each.status) for each in connection.exchanges[:1]]
    assert 203 not in [exchange.status for exchange in connection.exchanges[:4]]
