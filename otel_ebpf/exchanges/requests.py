"""The requests of one run, and where a chunked one ends of which not all was captured.

In:   records of requests and what the kernel has counted, both since the run began
Out:  requests in their order, whole or still open
Owns: the reader of requests
"""

import re

from otel_ebpf.exchanges.exchange import Inferred
from otel_ebpf.exchanges.http1 import CHUNKED, RequestHead, parse_request_head
from otel_ebpf.exchanges.making import unread_bytes
from otel_ebpf.exchanges.reader import Message, Reader
from otel_ebpf.records.kinds import Kind, Record, RecordFlag
from otel_ebpf.records.progress import Progress

LAST_CHUNK_AND_REQUEST = re.compile(rb"(?:\A|\n)0+\r\n\r\n(?=[A-Z_-]+ [^ \r\n]+ HTTP/1\.)")
_BEGINNING = re.compile(rb"[A-Z_-]{1,8}(?: |\Z)|[A-Z_-]{8}")  # of a request, as the kernel sees one


class Requests:
    __slots__ = ("_answered_bytes", "messages", "reader")

    def __init__(self) -> None:
        self.reader: Reader[RequestHead] = Reader(parse_request_head, lambda head: head.framing)
        self.messages: list[Message[RequestHead]] = self.reader.messages
        self._answered_bytes = 0  # so many had come when a response did

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

    def feed(self, record: Record, *, are_reported: bool) -> bool:
        """Has one ended where only what follows it says so? `are_reported`: all of them."""
        payload, total_bytes, has_ended = record.payload, record.total_bytes, False
        if record.flags & RecordFlag.PAYLOAD_IS_END:
            payload = self._behind_chunks(record)
            has_ended = len(payload) < len(record.payload)
            total_bytes = len(payload)
        elif record.kind == Kind.REQUEST_MORE and are_reported:
            has_ended = self._end_answered_chunks(record)
        self.reader.feed(record.request_bytes - total_bytes, payload, total_bytes, record.at_monotonic_ns)
        return has_ended

    def meet_response(self, record: Record) -> None:
        """A response comes: by then so much had been sent."""
        self.reader.skip_to(record.request_bytes, record.request_last_monotonic_ns)
        self._answered_bytes = record.request_bytes

    def advance(self, progress: Progress | Record) -> None:
        self.reader.skip_to(progress.request_bytes, progress.request_last_monotonic_ns)

    def _end_answered_chunks(self, record: Record) -> bool:
        """A request behind a chunked one that has been answered: to the kernel an answer that came in one call with an
        interim one was none, so it takes both for one run."""
        message = self.reader.open_message
        if (
            message is None
            or message.framing != CHUNKED
            or self.reader.is_in_chunks
            or self._answered_bytes != record.request_bytes - record.total_bytes
            or not _BEGINNING.match(record.payload)
        ):
            return False
        message.is_complete = True
        return True

    def _behind_chunks(self, record: Record) -> bytes:
        """What follows the end of a chunked body in the last bytes of a call; all of them when no body ends there.

        A last chunk and behind it a request line: nothing else looks so, and the sizes before were not captured. A
        client that sends it before the answer may have sent others in what was not: which answer is whose is not known.
        """
        message = self.reader.open_message
        is_followed = self.reader.is_in_chunks and record.request_bytes - len(record.payload) == self.reader.offset
        if message is None or message.framing != CHUNKED or is_followed:
            return record.payload
        end = LAST_CHUNK_AND_REQUEST.search(record.payload)
        if end is None:
            return record.payload
        rest = record.payload[end.end() :]
        self.reader.skip_to(record.request_bytes - len(rest), record.at_monotonic_ns)
        message.is_complete = True
        message.inferred |= Inferred.REQUEST_END_BY_LAST_CHUNK
        return rest
