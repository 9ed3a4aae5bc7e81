"""One direction of a connection, however it is cut, at a cost that its sender cannot raise."""

import pytest

from otel_ebpf.exchanges.http1 import CHUNKED, NotHttpError, parse_request_head, parse_response_head
from otel_ebpf.exchanges.reader import MAX_HEAD_BYTES, MAX_MESSAGES, Reader
from tests.unit.work import lines_executed

CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def of_requests() -> Reader:
    return Reader(parse_request_head, lambda head: head.framing)


def of_responses() -> Reader:
    return Reader(parse_response_head, lambda head: 0 if head.is_interim else head.framing)


def feed(reader: Reader, data: bytes, piece_bytes: int = 1) -> Reader:
    for offset in range(0, len(data), piece_bytes):
        piece = data[offset : offset + piece_bytes]
        reader.feed(reader.offset, piece, len(piece), 1)
    return reader


def kept_bytes(reader: Reader) -> int:
    return len(reader._pending) + len(reader.messages) * 100


def test_a_head_in_pieces_of_one_byte_is_read_a_few_times_over_not_once_a_byte():
    read_bytes = 0

    def parse(data: bytes, **options: bool) -> object:
        nonlocal read_bytes
        read_bytes += len(data)
        return parse_request_head(data, **options)

    head = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n"
    reader = feed(Reader(parse, lambda head: head.framing), head)

    assert [len(head)] == [message.wire_bytes for message in reader.messages]
    assert read_bytes < 5 * len(head)


@pytest.mark.parametrize("version", [b"", b" ", b" HT", b" HTTP/1.1", b" HTTP/1.1\r"])
def test_a_start_line_that_breaks_off_has_its_target_and_no_more(version: bytes):
    head = parse_request_head(b"GET /a" + version, is_cut=True)

    assert head is not None
    assert (b"GET", b"/a", b"") == (head.method, head.target, head.version)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_twice_as_many_chunks_are_twice_the_work(piece_bytes: int):
    def work(chunks: int) -> int:
        return lines_executed(lambda: feed(of_requests(), CHUNKED_HEAD + b"1\r\na\r\n" * chunks, piece_bytes))

    assert work(2000) < 2.2 * work(1000)


@pytest.mark.parametrize("piece_bytes", [1, 3, 100_000])
def test_a_chunked_body_ends_where_it_ends_however_it_is_cut(piece_bytes: int):
    """RFC 9112 section 7.1: extensions, trailers, and data that looks like a last chunk."""
    body = b"5;x=y\r\n0\r\n\r\n\r\n" + b"0ffff\r\n" + b"z" * 65_535 + b"\r\n" + b"0\r\nTrailer: 1\r\n\r\n"
    reader = feed(of_requests(), CHUNKED_HEAD + body + b"GET /next HTTP/1.1\r\n\r\n", piece_bytes)

    assert [(CHUNKED, 65_540, len(CHUNKED_HEAD + body)), (0, 0, 22)] == [
        (message.framing, message.body_bytes, message.wire_bytes) for message in reader.messages
    ]
    assert all(message.is_complete for message in reader.messages)


@pytest.mark.parametrize(
    "body",
    [b"x\r\n", b"\r\n", b"1\r\nabc\r\n", b"11111111111111111\r\n", b"-1\r\n", b"1\r\na\n\r", b"1;" + b"x" * 9000],
)
def test_a_body_whose_chunks_cannot_be_followed_has_no_known_size(body: bytes):
    reader = feed(of_requests(), CHUNKED_HEAD + body + b"0\r\n\r\n")

    assert [(None, False)] == [(message.body_bytes, message.is_complete) for message in reader.messages]


@pytest.mark.parametrize("piece", [b"HTTP/1.1 200 OK\r\na: b\r\n", b"HTTP/1.1 200 OK\r\nHTTP/1.1 200 " + b"a" * 2000])
def test_a_head_without_end_is_taken_as_far_as_it_goes(piece: bytes):
    """Whoever answers like this may do so for ever."""
    reader = of_responses()
    for _ in range(2 * MAX_HEAD_BYTES // len(piece)):
        reader.feed(reader.offset, piece, len(piece), 1)
        assert kept_bytes(reader) <= MAX_HEAD_BYTES + 100

    assert [(200, True)] == [(message.head.status, message.is_cut) for message in reader.messages]


def test_empty_lines_without_end_are_no_request():
    with pytest.raises(NotHttpError):
        feed(of_requests(), b"\r\n" * MAX_HEAD_BYTES, 400)


def test_messages_without_end_are_kept_up_to_a_number():
    """Interim responses and pipelined requests cost their sender a few bytes each."""
    reader = feed(of_responses(), b"HTTP/1.1 102 \r\n\r\n" * (MAX_MESSAGES + 50), 170)

    assert MAX_MESSAGES == len(reader.messages)
    assert reader.is_lost
