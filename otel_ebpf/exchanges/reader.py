"""Follows the HTTP/1 messages in one direction of a connection, from a beginning on.

In:   the bytes of calls: their place in the stream, how many there were, and the first of them
Out:  messages, each with its head, its times and its length, complete or still open
Owns: the place in the stream, a head in pieces

Sans-IO. Bytes may be missing: a gap inside a body of known length is only counted; a gap that may hold a head
makes the reader lose its place, and it says so instead of guessing (`is_lost`). Whoever sends the bytes chooses how
they are cut: what is kept of them is bounded, and the work grows with their number alone.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from otel_ebpf.exchanges.exchange import Inferred
from otel_ebpf.exchanges.http1 import (
    CHUNKED,
    UNREADABLE,
    ChunkedBody,
    NotHttpError,
    RequestHead,
    ResponseHead,
    end_of_head,
)

Head = TypeVar("Head", RequestHead, ResponseHead)

MAX_HEAD_BYTES = 65_536  # of a head in pieces; then it is taken as far as it goes
MAX_MESSAGES = 1024  # of one run; what comes behind them is not looked at
_MESSAGE_BYTES = 400  # of memory, besides the bytes of its head


@dataclass(slots=True, eq=False)
class Message(Generic[Head]):
    """One request or response. `body_bytes` is the payload without its framing, None when that is not known."""

    head: Head
    framing: int
    start_ns: int
    last_ns: int
    wire_bytes: int
    body_bytes: int | None
    is_complete: bool
    is_cut: bool
    is_late: bool = False  # its last byte moved at last_ns or before
    is_abandoned: bool = False  # another one has begun, and where this one ended was not seen
    inferred: Inferred = Inferred.NOTHING


class Reader(Generic[Head]):
    """`parse` reads one head, `framing_of` says how the body behind it ends (a length, or a kind of http1)."""

    __slots__ = (
        "_chunks",
        "_framing_of",
        "_has_start_line",
        "_kept_bytes",
        "_left_bytes",
        "_parse",
        "_parsed_bytes",
        "_pending",
        "_pending_ns",
        "is_lost",
        "messages",
        "offset",
    )

    def __init__(self, parse: Callable[..., Head | None], framing_of: Callable[[Head], int]) -> None:
        self.messages: list[Message[Head]] = []
        self.offset = 0
        self.is_lost = False
        self._parse: Callable[..., Head | None] = parse
        self._framing_of: Callable[[Head], int] = framing_of
        self._pending = b""  # a head in pieces
        self._parsed_bytes = 0  # of it
        self._has_start_line = False
        self._pending_ns = 0
        self._kept_bytes = 0  # of heads that are whole
        self._left_bytes = 0  # of the open message's body, when its length is known
        self._chunks: ChunkedBody | None = None  # None once a byte of them is missing

    @property
    def open_message(self) -> Message[Head] | None:
        return self.messages[-1] if self.messages and not self.messages[-1].is_complete else None

    @property
    def kept_bytes(self) -> int:
        """Of heads, in pieces and whole; of short ones what is made of them takes more than they do."""
        return self._kept_bytes + _MESSAGE_BYTES * len(self.messages) + len(self._pending)

    @property
    def has_begun_head(self) -> bool:
        """A piece of one is here, and it is more than empty lines."""
        return bool(self._pending.strip(b"\r\n"))

    @property
    def is_in_head(self) -> bool:
        """Of a head a piece is here."""
        return bool(self._pending)

    @property
    def is_in_chunks(self) -> bool:
        """Of a chunked body all has been seen so far."""
        return self.open_message is not None and self._chunks is not None

    def feed(self, offset: int, payload: bytes, total_bytes: int, at_ns: int) -> None:
        """One call moved total_bytes, payload is their beginning. Raises NotHttpError where no message begins."""
        if offset > self.offset:
            self.skip_to(offset, at_ns, is_late=True)
        elif offset < self.offset:
            # The progress table has told of these bytes before their record did.
            passed_bytes = self.offset - offset
            if passed_bytes >= total_bytes:
                return
            offset, payload, total_bytes = self.offset, payload[passed_bytes:], total_bytes - passed_bytes
        missing_bytes = total_bytes - len(payload)
        self.offset = offset + total_bytes
        while payload and not self.is_lost:
            message = self.open_message
            payload = (
                self._feed_head(payload, at_ns, missing_bytes > 0)
                if message is None
                else self._feed_body(message, payload, at_ns)
            )
        if missing_bytes:
            self._skip(missing_bytes, at_ns, is_late=False)

    def skip_to(self, offset: int, at_ns: int, *, is_late: bool = False) -> None:
        """The stream has come to `offset`, the last byte at at_ns, or before (`is_late`); what it held is not known."""
        gap_bytes = offset - self.offset
        if gap_bytes > 0:
            self.offset = offset
            self._skip(gap_bytes, at_ns, is_late=is_late or 0 <= self._left_bytes < gap_bytes)

    def forget(self, count: int) -> None:
        """The first messages, which are complete, are needed no longer."""
        self._kept_bytes -= sum(message.head.length for message in self.messages[:count])
        del self.messages[:count]

    def would_guess(self, offset: int, *, is_last: bool = True) -> bool:
        """Is there more up to `offset` than the body in hand? A head that no record has told of yet may be in it.

        `is_last`: nothing is awaited behind the open message, so a body without a length may be all there is.
        """
        gap_bytes = offset - self.offset
        if gap_bytes <= 0 or self.is_lost:
            return False
        message = self.open_message
        if message is None or self._chunks is not None:
            return True
        return gap_bytes > self._left_bytes if message.framing >= 0 else not is_last

    def take_cut_head(self) -> None:
        """No more of a head in pieces will be seen: what is there is taken, as far as it is a head."""
        if self._pending and not self.is_lost:
            with contextlib.suppress(NotHttpError):
                self._feed_head(b"", self._pending_ns, True)
            self.drop_head()

    def drop_head(self) -> None:
        """What is here of a head in pieces."""
        self._pending = b""

    def _feed_head(self, payload: bytes, at_ns: int, is_cut: bool) -> bytes:
        if not self._pending:
            self._pending_ns = at_ns
        data = self._pending + payload if self._pending else payload
        is_cut = is_cut or len(data) > MAX_HEAD_BYTES
        head = self._parse(data) if is_cut or self._is_worth_parsing(data) else None
        was_cut = head is None and is_cut
        if was_cut:
            head = self._parse(data, is_cut=True)
        if head is None:
            self._pending = data
            return b""
        self._pending = b""
        if len(self.messages) == MAX_MESSAGES:
            self.is_lost = True
            return b""
        self._kept_bytes += head.length
        framing = UNREADABLE if was_cut and head.framing < 0 else self._framing_of(head)
        self._left_bytes = framing
        self._chunks = ChunkedBody() if framing == CHUNKED else None
        is_complete = framing == 0 and not was_cut
        body_bytes = 0 if framing >= 0 and not was_cut else None
        self.messages.append(
            Message(head, framing, self._pending_ns, at_ns, head.length, body_bytes, is_complete, was_cut)
        )
        if was_cut:
            # Where the body begins is not known, so neither is where a message of known length ends.
            self.messages[-1].framing = self._left_bytes = UNREADABLE
        return data[head.length :]

    def _is_worth_parsing(self, data: bytes) -> bool:
        """Has a head in pieces got its start line or its end, or has it doubled? Else it is what it was."""
        before = len(self._pending)
        if (
            before
            and len(data) < 2 * self._parsed_bytes
            and (self._has_start_line or data.find(b"\n", before) < 0)
            and end_of_head(data, max(0, before - 2)) < 0
        ):
            return False
        self._parsed_bytes = len(data)
        self._has_start_line = b"\n" in data.lstrip(b"\r\n")
        return True

    def _feed_body(self, message: Message[Head], payload: bytes, at_ns: int) -> bytes:
        message.last_ns, message.is_late = at_ns, False
        if message.framing >= 0:
            taken = min(self._left_bytes, len(payload))
            self._take(message, taken)
            return payload[taken:]
        if message.framing == CHUNKED and self._chunks is not None:
            return self._feed_chunks(message, self._chunks, payload)
        if message.framing != CHUNKED and not message.is_cut:
            message.body_bytes = (message.body_bytes or 0) + len(payload)
        message.wire_bytes += len(payload)
        return b""

    def _feed_chunks(self, message: Message[Head], chunks: ChunkedBody, payload: bytes) -> bytes:
        try:
            taken = chunks.feed(payload)
        except NotHttpError:
            self._chunks = None
            taken = len(payload)
        message.wire_bytes += taken
        if chunks.is_ended:
            message.is_complete = True
            message.body_bytes = chunks.payload_bytes
        return payload[taken:]

    def _take(self, message: Message[Head], count: int) -> None:
        self._left_bytes -= count
        message.wire_bytes += count
        message.body_bytes = (message.body_bytes or 0) + count
        message.is_complete = self._left_bytes == 0

    def _skip(self, count: int, at_ns: int, *, is_late: bool) -> None:
        self.take_cut_head()
        message = self.open_message
        if message is None:
            self.is_lost = True
            return
        message.last_ns, message.is_late = at_ns, is_late
        if message.framing >= 0:
            if count > self._left_bytes:
                self._take(message, self._left_bytes)
                self.is_lost = True
            else:
                self._take(message, count)
            return
        message.wire_bytes += count
        if message.framing == CHUNKED:
            self._chunks = None
        elif not message.is_cut:
            message.body_bytes = (message.body_bytes or 0) + count
