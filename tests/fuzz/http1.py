"""Heads and chunked bodies: whole or in pieces they say the same, and no head ends outside of what was given."""

from otel_ebpf.exchanges.http1 import (
    CHUNKED,
    UNREADABLE,
    UNTIL_CLOSE,
    ChunkedBody,
    NotHttpError,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
    response_framing,
)
from otel_ebpf.exchanges.reader import MAX_HEAD_BYTES, MAX_MESSAGES, Reader
from tests.fuzz.choices import Choices
from tests.fuzz.kept import kept_bytes


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    is_request, method = choices.number() & 1, choices.one_of([b"GET", b"HEAD", b"CONNECT"])
    cut_by = Choices(choices.take(8))
    text = choices.rest()
    pieces = cut_by.pieces(text)
    if is_request:
        _same(text, pieces, lambda: Reader(parse_request_head, lambda head: head.framing))
    else:
        _same(text, pieces, lambda: Reader(parse_response_head, lambda head: response_framing(head, method)))
    for parse in (parse_request_head, parse_response_head):
        for is_cut in (False, True):
            _check_head(parse, text, is_cut)
    assert _chunks([text]) == _chunks(pieces)


def _check_head(parse, text: bytes, is_cut: bool) -> None:
    try:
        head: RequestHead | ResponseHead | None = parse(text, is_cut=is_cut)
    except NotHttpError:
        return
    if head is None:
        assert not is_cut, "a head that will not go on is a head or none"
        return
    assert 0 < head.length <= len(text)
    assert head.framing >= 0 or head.framing in (CHUNKED, UNTIL_CLOSE, UNREADABLE)
    if isinstance(head, RequestHead):
        assert head.framing != UNTIL_CLOSE
        assert head.target in text
        assert not set(head.target) & set(b" \r\n")
        assert all(value in text or b", " in value for value in head.fields[:5] if value is not None)
    else:
        assert 100 <= head.status <= 999


def _same(text: bytes, pieces: list[bytes], make) -> None:
    whole, whole_fails = _read(make(), [text])
    cut, cut_fails = _read(make(), pieces)
    assert whole_fails or not cut_fails
    found, expected = _messages(cut), _messages(whole)
    # What is no head is seen at the latest when its line ends; heads in hand may still be waiting for that.
    assert found == expected[: len(found)] if whole_fails else found == expected
    assert cut_fails or cut.offset == len(text)


def _read(reader: Reader, pieces: list[bytes]) -> tuple[Reader, bool]:
    is_failed = False
    for piece in pieces:
        try:
            reader.feed(reader.offset, piece, len(piece), 1)
        except NotHttpError:
            is_failed = True
            break
    assert len(reader._pending) <= MAX_HEAD_BYTES
    assert len(reader.messages) <= MAX_MESSAGES
    assert kept_bytes(reader) <= 2 * sum(map(len, pieces)) + 200
    return reader, is_failed


def _messages(reader: Reader) -> list[tuple[object, ...]]:
    return [
        (message.head, message.framing, message.wire_bytes, message.body_bytes, message.is_complete)
        for message in reader.messages
    ]


def _chunks(pieces: list[bytes]) -> tuple[int, int] | None:
    """Where a chunked body ends, and how much it holds; -1: not yet."""
    body, taken = ChunkedBody(), 0
    try:
        for piece in pieces:
            taken += body.feed(piece)
    except NotHttpError:
        return None
    return (taken, body.payload_bytes) if body.is_ended else (-1, body.payload_bytes)
