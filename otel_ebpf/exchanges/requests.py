"""The requests of one run, and where a chunked one ends of which not all was captured.

In:   records of requests and what the kernel has counted, both since the run began; what it says of chunks
Out:  requests in their order, whole or still open
Owns: the reader of requests

What a body holds is its sender's choice, so no byte of it says where it ends: its length does, or chunks that were followed from
the first to the last.
"""

import re

from otel_ebpf.exchanges.http1 import CHUNKED, RequestHead, parse_request_head
from otel_ebpf.exchanges.making import unread_bytes
from otel_ebpf.exchanges.reader import Message, Reader
from otel_ebpf.records.kinds import Kind, Record, RecordFlag
from otel_ebpf.records.progress import Progress

_SIZE_LINE = re.compile(rb"[0-9a-fA-F]+[ \t]*(?:[;\r\n]|\Z)")  # as far as it goes
_CHUNKS_ENDED = int(RecordFlag.REQUEST_CHUNKS_ENDED)


class Requests:
    __slots__ = ("messages", "reader")

    def __init__(self) -> None:
        self.reader: Reader[RequestHead] = Reader(parse_request_head, lambda head: head.framing)
        self.messages: list[Message[RequestHead]] = self.reader.messages

    @property
    def unread_bytes(self) -> int:
        """That the last one's length promised and that have not been sent."""
        message = self.reader.open_message
        return 0 if message is None else unread_bytes(message)

    @property
    def are_between(self) -> bool:
        """Nothing of a request is awaited: the last one is whole, and no other has begun."""
        reader = self.reader
        return not (reader.is_lost or reader.is_in_head or reader.open_message is not None)

    @property
    def is_amid_head(self) -> bool:
        """A request has begun, and more of its head is to come, whatever that looks like."""
        return self.reader.has_begun_head and not self.reader.is_lost

    def may_hold(self, payload: bytes) -> bool:
        """It is not known where the last one ends: may its body go on with these bytes, whatever they look like?"""
        if self.reader.is_lost or self.reader.has_begun_head:
            return True  # of one whose head was not seen, or not all of it
        message = self.reader.open_message
        if message is None or message.framing != CHUNKED:
            return False
        return message.wire_bytes > message.head.length or _SIZE_LINE.match(payload) is not None

    def feed(self, record: Record) -> None:
        payload, total_bytes = record.payload, record.total_bytes
        if record.kind == Kind.REQUEST_MORE:
            self._believe_chunks(record, record.request_bytes - total_bytes)
        if record.flags & RecordFlag.PAYLOAD_IS_END:
            total_bytes = len(payload)
        self.reader.feed(record.request_bytes - total_bytes, payload, total_bytes, record.at_monotonic_ns)

    def advance(self, told: Progress | Record) -> None:
        """So much had been sent by then."""
        self.reader.skip_to(told.request_bytes, told.request_last_monotonic_ns)
        if isinstance(told, Record):
            self._believe_chunks(told, told.request_bytes)

    def _believe_chunks(self, record: Record, end: int) -> None:
        """The kernel has followed chunks to their end: those of the request that is open, if they began where its body does."""
        if not record.flags & _CHUNKS_ENDED:
            return
        reader = self.reader
        reader.skip_to(end, record.request_last_monotonic_ns, is_late=True)
        message = reader.open_message
        if message is None or message.framing != CHUNKED or reader.offset != end:
            return
        payload_bytes, wire_bytes = record.request_chunks
        if (message.wire_bytes - message.head.length) & 0xFFFF_FFFF == wire_bytes:
            message.is_complete, message.body_bytes = True, payload_bytes
