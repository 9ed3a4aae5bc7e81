"""The responses of one run: where each of them ends, by all that is known.

In:   records of responses and what the kernel has counted, both since the run began; the requests as they were read
Out:  final responses in their order, whole or still open
Owns: the reader of responses, and whether what the kernel says of chunks is about the one in hand

What was handed over to be sent is read at once, and ends when it has been sent: until then its times are those of the
handing over.
An end is read from the framing, or from what the kernel says of chunks. Where neither tells it, it is inferred and marked
so. Where a whole response may have gone by unseen, the place in the stream is lost: nothing is guessed.
"""

import re

from otel_ebpf.exchanges.exchange import Inferred
from otel_ebpf.exchanges.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    parse_response_head,
    response_framing,
)
from otel_ebpf.exchanges.reader import Message, Reader
from otel_ebpf.records.kinds import EndReason, Record, RecordFlag
from otel_ebpf.records.progress import Progress

BEGINS_LIKE_RESPONSE = re.compile(rb"HTTP/1\.[0-9] [1-5][0-9][0-9][ \r\n]")
END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"

Response = Message[ResponseHead]


class Responses:
    __slots__ = (
        "_are_chunks_followed",
        "_begins_with_head",
        "_doubted",
        "_finals",
        "_is_in_flight",
        "_requests",
        "_seen_count",
        "_tail",
        "_unsent_ns",
        "has_overlapped",
        "reader",
    )

    def __init__(self, requests: Reader[RequestHead]) -> None:
        self.reader: Reader[ResponseHead] = Reader(parse_response_head, self._framing_of)
        self.has_overlapped = False  # the client was seen to send on while a response was to come
        self._requests = requests
        self._finals: list[Response] = []
        self._seen_count = 0  # of the reader's messages
        self._is_in_flight = False  # by its length; no byte of it has come since the client went on
        self._are_chunks_followed = False
        self._begins_with_head = True
        self._doubted: Response | None = None  # what the kernel says of chunks may not be of this one
        self._tail = b""
        self._unsent_ns = 0  # what was handed over then, or later, has not been sent; 0: all has

    @property
    def finals(self) -> list[Response]:
        """All but interim ones."""
        messages = self.reader.messages
        while self._seen_count < len(messages):
            message = messages[self._seen_count]
            self._seen_count += 1
            if not message.head.is_interim:
                self._finals.append(message)
        return self._finals

    @property
    def awaited_count(self) -> int:
        """Requests whose response has not begun."""
        return len(self._requests.messages) - len(self.finals)

    @property
    def may_go_on(self) -> bool:
        """Are some still to come, also when the client sends its next request?"""
        message = self.reader.open_message
        is_framed = message is not None and (message.framing >= 0 or message.framing == CHUNKED)
        return not self.reader.is_lost and (is_framed or self.awaited_count > 0)

    def goes_on_with(self, record: Record) -> bool:
        """Are these bytes of a response that has begun before?"""
        message = self.reader.open_message
        return message is not None and (message.framing >= 0 or not BEGINS_LIKE_RESPONSE.match(record.payload))

    def feed(self, record: Record) -> None:
        self._meet_beginning(record)
        self._tail = record.tail
        self._read(record)
        self._unsent_ns = record.response_last_monotonic_ns if record.flags & RecordFlag.UNSENT else 0

    def advance(self, progress: Progress | Record) -> None:
        """The kernel has counted so many bytes, and may have followed the chunks among them."""
        if progress.response_bytes > self.reader.offset:
            self.has_overlapped = self.has_overlapped or self._is_in_flight
            self._is_in_flight = False
        self._tail = progress.tail
        self.reader.skip_to(progress.response_bytes, progress.response_last_monotonic_ns)
        self._learn_sent(progress)
        message = self.reader.open_message
        if message is None or message.framing != CHUNKED:
            return
        if progress.flags & RecordFlag.CHUNKS_FOLLOWED and message is not self._doubted:
            # The kernel has read every size line: this is exact, where the last bytes alone could deceive.
            self._are_chunks_followed = True
            message.body_bytes = progress.chunk_payload_bytes
            message.is_complete = bool(progress.flags & RecordFlag.CHUNKS_ENDED)
        elif self._are_chunks_followed:
            self._are_chunks_followed = False  # given up: what was counted until then is not the size
            message.body_bytes = None

    def is_unsent(self, response: Response) -> bool:
        return 0 < self._unsent_ns <= response.last_ns

    def _learn_sent(self, progress: Progress | Record) -> None:
        last_ns = progress.response_last_monotonic_ns
        if progress.flags & RecordFlag.UNSENT:
            self._unsent_ns = last_ns
        elif self._unsent_ns and progress.response_bytes >= self.reader.offset:
            for message in self.reader.messages:
                if self.is_unsent(message):
                    message.last_ns = last_ns
            self._unsent_ns = 0

    def go_on(self, reported_count: int, record: Record) -> None:
        """The client has not waited: `record` begins a further position. The first final ones are needed no longer."""
        if reported_count:
            answered = self.reader.messages.index(self.finals[reported_count - 1]) + 1
            self.reader.forget(answered)
            del self._finals[:reported_count]
            self._seen_count -= answered
        message = self.reader.open_message
        self.has_overlapped = self.has_overlapped or self.awaited_count > 0
        self._is_in_flight = message is not None and not self.awaited_count
        if message is not None and not record.flags & RecordFlag.CHUNKS_FOLLOWED:
            self._doubt(message)

    def would_guess(self, progress: Progress) -> bool:
        """Does it tell of bytes that a record may still explain?"""
        if self._is_in_flight and progress.response_bytes > self.reader.offset:
            return True
        return self.reader.would_guess(progress.response_bytes, is_last=not self.awaited_count)

    def believe_last_chunk(self, *, is_over: bool = False) -> None:
        """Completes a chunked response whose last bytes are those of a last chunk. Evidence, not proof: a chunk
        may hold the same bytes, so this is for a connection that has gone quiet or on to the next request."""
        message = self.reader.open_message
        if message is None or message.framing != CHUNKED or message.is_cut or self._are_chunks_followed:
            return
        if self.awaited_count and not is_over:
            return  # it may be the last chunk of a response behind this one
        if (b"\0" + self._tail).endswith(_LAST_CHUNK) or self._is_only_last_chunk(message):
            _complete(message, Inferred.RESPONSE_END_BY_LAST_CHUNK)
            message.is_late = message.is_late or self.awaited_count > 0

    def end(self, reason: EndReason, at_ns: int) -> None:
        """No more will come."""
        self.believe_last_chunk(is_over=True)
        self._end_unsent(reason, at_ns)
        message = self.reader.open_message
        if message is None:
            return
        is_closed = reason in (EndReason.CLOSED, EndReason.PEER_CLOSED)
        if reason == EndReason.NEXT_REQUEST and message.framing < 0:
            # A client that has gone on has read the response to its end.
            _complete(message, Inferred.RESPONSE_END_BY_NEXT_REQUEST)
        elif is_closed and message.framing == UNTIL_CLOSE:
            _complete(message, Inferred.RESPONSE_END_BY_CLOSE)

    def _end_unsent(self, reason: EndReason, at_ns: int) -> None:
        for message in self.reader.messages:
            if not self.is_unsent(message):
                continue
            if reason == EndReason.NEXT_REQUEST:
                message.last_ns = at_ns
                message.inferred |= Inferred.RESPONSE_END_BY_NEXT_REQUEST
            else:
                message.is_complete, message.body_bytes = False, None  # how much of it has left is not known
        self._unsent_ns = 0

    @property
    def have_broken_off(self) -> bool:
        """Of the one that is not whole: really? Where the place in the stream was lost, what is missing may have come."""
        messages = self.reader.messages
        if self.reader.is_lost or (messages and messages[-1].inferred):
            return False
        message = self.reader.open_message
        if message is None or message.framing >= 0:
            return True
        is_followed = self._are_chunks_followed or self.reader.is_in_chunks
        return message.framing == UNTIL_CLOSE or (message.framing == CHUNKED and is_followed)

    def _meet_beginning(self, record: Record) -> None:
        """A call begins like a response while a request waits for one: has the response before it ended?

        Where whole responses may have gone by, it answers the request that waits if that is the only one: had the answer
        gone by, nothing would be left to be answered. Where requests were not seen, it may not be the only one.
        """
        reader, offset = self.reader, record.response_bytes - record.total_bytes
        was_in_flight, self._is_in_flight = self._is_in_flight, False
        awaited = self.awaited_count
        are_others_awaited = awaited > 1 or (awaited == 1 and self._requests.is_lost)
        if not BEGINS_LIKE_RESPONSE.match(record.payload):
            self.has_overlapped = self.has_overlapped or was_in_flight
            return
        if reader.open_message is None or not awaited or reader.is_lost:
            return
        reader.skip_to(offset, record.at_monotonic_ns, is_late=True)
        message = reader.open_message
        if message is None or offset < reader.offset:
            return
        is_followed = reader.is_in_chunks or self._are_chunks_followed
        if message.framing == CHUNKED and not is_followed and are_others_awaited:
            reader.is_lost = True
        elif message.framing == CHUNKED and not is_followed and self._is_at_an_end():
            _complete(message, Inferred.RESPONSE_END_BY_NEXT_RESPONSE)
        elif was_in_flight:
            # Nothing of it has come since the client went on: so it had ended, and not all of it was seen.
            message.is_complete = message.is_abandoned = True

    def _read(self, record: Record) -> None:
        """The kernel follows the chunks behind the first head of a call that begins like one. So what it says is not
        about a response that begins further on; and once there is a record about a body, it took that for a head."""
        reader, begun = self.reader, len(self.reader.messages)
        if not reader.is_in_head:
            self._begins_with_head = reader.open_message is None
        offset = record.response_bytes - record.total_bytes
        reader.feed(offset, record.payload, record.total_bytes, record.at_monotonic_ns)
        message = reader.open_message
        if len(reader.messages) > begun and reader.is_in_head:
            self._begins_with_head = False
        if message is None or message.framing != CHUNKED:
            return
        is_followed = self._begins_with_head and message is reader.messages[begun]
        # An empty line at the end of what was captured is the head's to the kernel, also where it is the body's.
        if not is_followed or (message.wire_bytes > message.head.length and record.payload.endswith(END_OF_HEAD)):
            self._doubt(message)

    def _doubt(self, message: Response) -> None:
        """What the kernel says of chunks is not believed of this one."""
        self._doubted = message
        if self._are_chunks_followed:
            self._are_chunks_followed = False
            message.body_bytes = None

    def _is_at_an_end(self) -> bool:
        """May the last bytes be the end of chunks? Any last chunk, any trailer ends with an empty line; unread ones are 0."""
        return self._tail[-4:] in (END_OF_HEAD, bytes(4))

    def _is_only_last_chunk(self, message: Response) -> bool:
        return message.wire_bytes == message.head.length + 5 and self._tail.endswith(_LAST_CHUNK[2:])

    def _framing_of(self, head: ResponseHead) -> int:
        index = len(self.finals)
        requests = self._requests.messages
        method = requests[index].head.method if index < len(requests) else b""
        return 0 if head.is_interim else response_framing(head, method)


def _complete(message: Response, inferred: Inferred) -> None:
    message.is_complete = True
    message.inferred |= inferred
