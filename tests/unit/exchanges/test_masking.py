"""Redaction: what may be secret is gone, and the exchanges stay what they were."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.assembler import Assembler, ReadProgress
from otel_ebpf.exchanges.chunk_mask import ChunkMask
from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.exchanges.line_mask import KEPT_FIELDS, LineMask, mask_line
from otel_ebpf.exchanges.masking import Masks, mask_tail
from otel_ebpf.records.kinds import EndReason, Record
from otel_ebpf.records.progress import Progress
from otel_ebpf.telemetry.headers import HeaderRules, Headers
from tests.fuzz.kept import kept_bytes
from tests.unit.exchanges.kernel_model import Connection

SECRET = b"S3CR3T"
SHOWN = HeaderRules(("x-shown", "referer"), ("x-shown",))


class Redacted(Assembler):
    """Gets its records and readings as a redacted recording has them."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = Masks(SHOWN.shown)
        self.seen = b""

    def feed(self, record: Record) -> list[Exchange]:
        payload = self.masks.feed(record)
        assert len(record.payload) == len(payload)
        tail = mask_tail(record.tail)
        self.seen += payload + tail
        return super().feed(record._replace(payload=payload, tail=tail))

    def watch(self, read_progress: ReadProgress, now_ns: int) -> list[Exchange]:
        def read(connection: int, position: int) -> Progress | None:
            progress = read_progress(connection, position)
            if progress is None:
                return None
            self.masks.advance(connection, progress, now_ns)
            return progress._replace(tail=mask_tail(progress.tail))

        return super().watch(read, now_ns)


def masked(exchange: Exchange) -> Exchange:
    return replace(exchange, target=mask_line(b"GET " + exchange.target, True)[4:])


headers = st.sampled_from(
    [
        b"Authorization: Bearer " + SECRET,
        b"Cookie:" + SECRET,
        b"X-Forwarded-For: 10.0.0.1",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"Host: shop",
        b"X-Folded: a\r\n " + SECRET,
        b"Accept: */*",
        b"X-SHOWN: to all",
        b"Referer: http://me:" + SECRET + b"@shop/?token=" + SECRET + b"#session=" + SECRET,
    ]
)
bodies = st.binary(max_size=40).map(lambda data: data + SECRET) | st.just(b"")


@st.composite
def framed(draw: st.DrawFn, start_line: bytes) -> bytes:
    lines = draw(st.lists(headers, max_size=4))
    body = draw(bodies)
    if draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        size = draw(st.integers(1, 30))
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        extension = draw(st.sampled_from([b"", b";key=" + SECRET]))
        trailer = draw(st.sampled_from([b"", b"Signature: " + SECRET + b"\r\n"]))
        coded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        body = coded + b"0\r\n" + trailer + b"\r\n"
    elif body or start_line.startswith(b"HTTP"):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([start_line, *lines, b"", b""]) + body


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    target = draw(
        st.sampled_from(
            [
                b"/a",
                b"/a?token=" + SECRET,
                b"/a?x&y=" + SECRET + b"&z",
                b"http://me:" + SECRET + b"@shop/",
                b"/a?b=c?d=e",
            ]
        )
    )
    return draw(framed(draw(st.sampled_from([b"GET", b"POST"])) + b" " + target + b" HTTP/1.1"))


responses = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found"]).flatmap(framed)
not_http = st.binary(min_size=1, max_size=30)


def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=6)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.data())
def test_redacted_records_give_the_same_exchanges_and_hold_no_secret(data: st.DataObject):
    """However the bytes are cut into calls, also when one or the other piece was not copied."""
    plain, redacted = Connection(), Connection(assembler=Redacted())
    for _ in range(data.draw(st.integers(1, 3))):
        count = data.draw(st.integers(1, 2))
        for is_request, message in [(True, requests())] * count + [(False, responses)] * count:
            for piece in cut(data.draw, data.draw(message)):
                uncopied = data.draw(st.sampled_from([0, 0, 0, 0, 7]))
                for connection in (plain, redacted):
                    move = connection.request if is_request else connection.response
                    move(piece, uncopied=uncopied)
        wait_ms = data.draw(st.sampled_from([0, 1, 300, 1200]))
        if wait_ms:
            plain.wait(wait_ms)
            redacted.wait(wait_ms)
    plain.end(EndReason.CLOSED)
    redacted.end(EndReason.CLOSED)

    assert [masked(exchange) for exchange in plain.exchanges] == redacted.exchanges
    shown = Headers(SHOWN)
    assert [shown.of(exchange) for exchange in plain.exchanges] == [
        shown.of(exchange) for exchange in redacted.exchanges
    ]


def test_redaction_knows_of_what_was_only_counted():
    """A chunked response in the middle of a run is over once it is quiet; what comes then is a head again."""
    plain, redacted = Connection(), Connection(assembler=Redacted())
    for connection in (plain, redacted):
        connection.request(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
        connection.response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.response(b"5\r\nhel", uncopied=4).response(b"\r\n0\r\n\r\n").wait(300)
        connection.response(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno").wait(300)

    assert [200, 404] == [exchange.status for exchange in plain.exchanges]
    assert plain.exchanges == redacted.exchanges


@given(st.lists(st.tuples(st.booleans(), requests() | responses | not_http), max_size=8))
def test_redaction_follows_also_what_is_no_http(calls: list[tuple[bool, bytes]]):
    """Any bytes, in any direction: the losses are the same as well."""
    plain, redacted = Connection(), Connection(assembler=Redacted())
    for is_request, piece in calls:
        for connection in (plain, redacted):
            (connection.request if is_request else connection.response)(piece)

    assert [masked(exchange) for exchange in plain.exchanges] == redacted.exchanges
    assert plain.assembler.losses == redacted.assembler.losses


@given(st.lists(st.tuples(requests(), responses), min_size=1, max_size=3))
def test_no_secret_of_whole_messages_is_left(messages: list[tuple[bytes, bytes]]):
    assembler = Redacted()
    connection = Connection(assembler=assembler)
    for request, response in messages:
        connection.request(request).response(response)

    assert len(messages) == len(connection.exchanges)
    assert SECRET not in assembler.seen


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"Cookie: a=b\r\n", b"Cookie: xxx\r\n"),
        (b"cookie:a=b", b"cookie:xxx"),
        (b"Cook", b"Cook"),
        (b" folded\r\n", b"xxxxxxx\r\n"),
        *((field + b": a=b\r\n", field + b": a=b\r\n") for field in sorted(KEPT_FIELDS)),
        (b"HOST: shop\r\n", b"HOST: shop\r\n"),
        (b"\r\n", b"\r\n"),
    ],
)
def test_values_of_headers_are_overwritten_unless_they_are_read(line: bytes, expected: bytes):
    assert expected == mask_line(line, False)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"X-Shown: a=b; c\r\n", b"X-Shown: a=b; c\r\n"),
        (b"x-shown:http://me:pw@host/a=b?c=d&e#f=g\r\n", b"x-shown:http://xx:xx@host/a=b?c=x&e#f=x\r\n"),
        (b"x-shown: <http://a@h>, <http://b@h>", b"x-shown: <http://x@h>, <http://x@h>"),
        (b"x-shown: http://me:p", b"x-shown: http://xx:x"),
        (b"x-shown: http://host/me:pw@x", b"x-shown: http://host/me:pw@x"),
        (b"x-shown: /?u=http://a&b@c&d=e", b"x-shown: /?u=xxxxxxxxxxxx&d=x"),
        (b"x-shown: http://a://b@c", b"x-shown: http://a://x@c"),
        (b"x-shown-not: a", b"x-shown-not: x"),
    ],
)
def test_values_of_headers_that_are_shown_stay_but_for_queries_and_credentials(line: bytes, expected: bytes):
    assert expected == mask_line(line, False, frozenset([b"x-shown"]))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET /a=b?c=d&e=f&g HTTP/1.1\r\n", b"GET /a=b?c=x&e=x&g HTTP/1.1\r\n"),
        (b"GET /a?c=d", b"GET /a?c=x"),
        (b"GET http://u:pw@host/a?c=d HTTP/1.1\r\n", b"GET http://x:xx@host/a?c=x HTTP/1.1\r\n"),
        (b"GET http://u:p", b"GET http://x:x"),
        (b"GET http://host/u:p@b HTTP/1.1\r\n", b"GET http://host/u:p@b HTTP/1.1\r\n"),
        (b"GET http://host?c=d HTTP/1.1\r\n", b"GET http://host?c=x HTTP/1.1\r\n"),
        (b"GET http:/u:p@b HTTP/1.1\r\n", b"GET http:/u:p@b HTTP/1.1\r\n"),
        (b"GET /a?b=c=d?e HTTP/1.1\r\n", b"GET /a?b=xxxxx HTTP/1.1\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n"),
    ],
)
def test_start_lines_keep_all_but_values_in_the_query_and_credentials(line: bytes, expected: bytes):
    assert expected == mask_line(line, True)


LINES = st.one_of(
    st.binary(max_size=40),
    st.text("GET htp:/?&=;@u \r\n", max_size=40).map(str.encode),
    st.tuples(st.sampled_from([*sorted(KEPT_FIELDS), b"Cookie", b"x-shown", b""]), st.binary(max_size=20)).map(
        b":".join
    ),
)


@given(LINES, st.booleans(), st.data())
def test_a_line_in_pieces_shows_no_more_than_the_whole_line(line: bytes, is_start_line: bool, data: st.DataObject):
    """And no less, but for an authority that is cut: what came of it before might have been credentials."""
    shown = frozenset([b"x-shown"])
    mask = LineMask(is_start_line, shown)
    in_pieces = b"".join(mask.feed(piece) for piece in cut(data.draw, line))
    whole = mask_line(line, is_start_line, shown)

    assert len(line) == len(whole) == len(in_pieces)
    assert all(now in (then, ord("x")) for now, then in zip(in_pieces, whole, strict=True))
    if b"://" not in line:
        assert whole == in_pieces


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /?" + b"a=b&" * 200,
        b"GET http://",
        b"Cookie: ",
        b"Host: ",
        b"X-Shown: http://a@b/?c=",
        b"X-Shown: http://",
    ],
)
def test_nothing_is_kept_of_a_line_that_comes_byte_by_byte(beginning: bytes):
    """So no byte is looked at twice, and a peer that sends its URL so does not hold the exporter up."""
    mask = LineMask(beginning.startswith(b"GET"), frozenset([b"x-shown"]))
    mask.feed(beginning)
    for _ in range(1000):
        mask.feed(b"a")

    assert kept_bytes(mask) < 20


@given(st.lists(st.binary(max_size=20), max_size=5), st.data())
def test_a_chunked_body_keeps_its_framing_however_it_is_cut(chunks: list[bytes], data: st.DataObject):
    whole = b"".join(b"%X;e=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\nT: v\r\n\r\n"
    expected = b"".join(b"%X;xxx\r\n%b\r\n" % (len(chunk), b"x" * len(chunk)) for chunk in chunks if chunk)
    mask = ChunkMask()

    found = b"".join(mask.mask(piece) for piece in cut(data.draw, whole))

    assert expected + b"0\r\nT: x\r\n\r\n" == found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"2\r\nab\r\nbad\r\n", b"2\r\nxx\r\nbad\r\n"),  # a size
        (b"2\r\nabcdbad\r\n", b"2\r\nxxxxxxxxx"),
        (b"2\r\nab\n\rbad\r\n", b"2\r\nxx\n\rxxxxx"),
        (b"no\r\nbad\r\n", b"xx\r\nxxxxx"),
        (b"1;" + b"e" * 9000 + b"\r\nbad", b"1;" + b"x" * 9000 + b"\r\nxxx"),
    ],
)
def test_no_digit_is_kept_behind_what_is_no_framing(body: bytes, expected: bytes):
    """ChunkedBody gives up there: from then on a size is no size."""
    whole, in_bytes = ChunkMask(), ChunkMask()

    assert expected == whole.mask(body)
    assert len(expected) == len(b"".join(in_bytes.mask(body[at : at + 1]) for at in range(len(body))))


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"a\r\n0\r\n\r\n", b"x\r\n0\r\n\r\n"),
        (b"\r\n\r\n0\r\n\r\n"[-8:], b"x\r\n0\r\n\r\n"),
        (b"abc0\r\n\r\n", b"xxx0\r\n\r\n"),
        (b"password", b"xxxxxxxx"),
        (bytes(8), bytes(8)),
    ],
)
def test_of_the_last_bytes_only_the_last_chunk_is_kept(tail: bytes, expected: bytes):
    assert expected == mask_tail(tail)


def test_a_request_found_behind_the_last_chunk_of_an_upload_is_found_in_a_redacted_recording_too():
    """Of such a call only the end is captured: without the last chunk nothing would say that a request begins there."""
    upload = b"PUT /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    further = b"GET /next HTTP/1.1\r\nCookie: " + SECRET + b"\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    redacted = Redacted()
    plain, hidden = Connection(), Connection(assembler=redacted)
    for connection in (plain, hidden):
        connection.request(upload).response(answer).request(b"1388\r\n" + b"u" * 3000)
        connection.request(SECRET * 300 + b"u" * 200 + b"\r\n0\r\n\r\n" + further).response(answer)

    assert [b"/up", b"/next"] == [exchange.target for exchange in plain.exchanges]
    assert plain.exchanges == hidden.exchanges
    assert SECRET not in redacted.seen


def test_a_size_that_is_not_believed_is_not_believed_of_a_redacted_recording_either():
    """A chunk that ends like a head, in one call with it: the bytes that say so stay."""
    plain, hidden = Connection(), Connection(assembler=Redacted())
    for connection in (plain, hidden):
        connection.request(b"GET / HTTP/1.1\r\n\r\n")
        connection.response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n")
        connection.response(b"0\r\nA: b\r\n\r\n").end(EndReason.CLOSED)

    assert plain.exchanges == hidden.exchanges
    assert [None] == [exchange.response_body_bytes for exchange in plain.exchanges]


def test_a_response_that_nothing_certain_leads_to_begins_in_a_redacted_recording_too():
    """Where the place in the stream is lost, the beginning of a call alone says that a response begins there."""
    plain, hidden = Connection(), Connection(assembler=Redacted())
    ask = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
    for connection in (plain, hidden):
        connection.request(ask % 0 + ask % 1 + ask % 2)
        connection.response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", uncopied=100)
        for number in (3, 4):
            connection.request(ask % number)
            connection.response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.end(EndReason.CLOSED)

    assert plain.exchanges == hidden.exchanges


@pytest.mark.parametrize("is_told", [False, True], ids=["by the next bytes", "by a look"])
def test_no_digit_of_a_body_is_kept_behind_a_gap(is_told: bool):
    """What was followed as chunks before may be anything now."""
    redacted = Redacted()
    connection = Connection(assembler=redacted)
    connection.request(b"GET /0 HTTP/1.1\r\n\r\nGET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\n\r\n!")
    connection.response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", uncopied=100)
    if is_told:
        connection.wait(1200)
    seen = len(redacted.seen)
    connection.response(b"deadbeef\r\n")

    assert redacted.seen[seen:].startswith(b"x" * len("deadbeef\r\n"))


def test_what_is_no_request_behind_a_last_chunk_is_none_in_a_redacted_recording_either():
    plain, hidden = Connection(), Connection(assembler=Redacted())
    for connection in (plain, hidden):
        connection.request(b"PUT /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").request(b"5\r\nhello\r\n")
        connection.request(b"0\r\n\r\nGET /x HTTP/1.x\r\n\r\n").end(EndReason.CLOSED)

    assert [] == plain.exchanges == hidden.exchanges
    assert plain.assembler.losses == hidden.assembler.losses
