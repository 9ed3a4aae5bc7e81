"""One run of a connection, as the kernel cuts it: requests, then responses. Usually one of each.

In:   the records of one (connection, position), oldest first
Out:  exchanges, each once: as soon as its response is whole, or when the run ends
Owns: the two readers, which requests have been reported

HTTP/1 answers in the order of the requests (RFC 9112 section 9.3.2): the n-th final response answers the n-th
request of the run.
"""

import re

from otel_ebpf.exchanges.exchange import Exchange, Inferred, OpenRequest, Outcome, Role, Unknown
from otel_ebpf.exchanges.http1 import (
    CHUNKED,
    UNREADABLE,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
    response_framing,
)
from otel_ebpf.exchanges.reader import MAX_MESSAGES, Message, Reader
from otel_ebpf.records.kinds import EndReason, Kind, Record, RecordFlag
from otel_ebpf.records.progress import Progress

LAST_CHUNK_AND_REQUEST = re.compile(rb"(?:\A|\n)0+\r\n\r\n(?=[A-Z_-]+ [^ \r\n]+ HTTP/1\.)")
_BEGINNING = re.compile(rb"[A-Z_-]{1,8}(?: |\Z)|[A-Z_-]{8}")  # of a request, as the kernel sees one
_LAST_CHUNK = b"\r\n0\r\n\r\n"
END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK_QUIET_NS = 200_000_000
_REQUEST_AWAITED_NS = 500_000_000  # after a response that came before the request's end


def open_request(first: Record, head: RequestHead) -> OpenRequest:
    return OpenRequest(
        first.service_pid,
        Role.SERVER if first.role == 2 else Role.CLIENT,
        first.family,
        first.remote_address,
        first.remote_port,
        head.method,
        head.target,
        head.fields.host,
    )


class Run:
    """Raises NotHttpError from `feed` when the bytes are not HTTP/1."""

    __slots__ = (
        "_answered_bytes",
        "_are_chunks_followed",
        "_begins_with_head",
        "_doubted",
        "_finals",
        "_first",
        "_flags",
        "_is_ended",
        "_paired_count",
        "_reported",
        "_requests",
        "_responses",
        "_seen_responses",
        "_tail",
        "extra",
        "lost",
    )

    def __init__(self, first: Record, extra: int) -> None:
        self.extra = extra  # exchanges on this connection that the kernel did not count, being pipelined
        self.lost = first.lost  # exchanges of the connection that the kernel has counted as lost, modulo 256
        self._first = first._replace(payload=b"")  # what is needed of it the readers keep
        self._flags = first.flags
        self._reported = 0
        self._is_ended = False
        self._are_chunks_followed = False
        self._begins_with_head = True
        self._answered_bytes = 0  # so much of the requests had come when a response did
        self._paired_count = MAX_MESSAGES  # so many requests have their answers at the same place
        self._finals: list[Message[ResponseHead]] = []
        self._seen_responses = 0
        self._doubted: Message[ResponseHead] | None = None  # what the kernel says of chunks may not be of this one
        self._tail = b""
        self._requests: Reader[RequestHead] = Reader(parse_request_head, lambda head: head.framing)
        self._responses: Reader[ResponseHead] = Reader(parse_response_head, self._framing_of_response)

    @property
    def readers(self) -> tuple[Reader[RequestHead], Reader[ResponseHead]]:
        """Of requests and of responses, to look at."""
        return self._requests, self._responses

    @property
    def kept_bytes(self) -> int:
        return self._requests.kept_bytes + self._responses.kept_bytes

    @property
    def position(self) -> int:
        return self._first.position

    @property
    def connection(self) -> int:
        return self._first.connection

    @property
    def service_pid(self) -> int:
        return self._first.service_pid

    @property
    def pipelined_count(self) -> int:
        """Requests beyond the first: the kernel takes the run for one."""
        return max(0, len(self._requests.messages) - 1) + self.unseen_count

    @property
    def unseen_count(self) -> int:
        """A request that came in one call with the end of a body: its head was not captured."""
        return int(self._requests.is_lost and self.has_head)

    @property
    def unreported_count(self) -> int:
        """Requests that have given no exchange yet; a head that is not whole is one."""
        return 0 if self._is_ended else max(1, len(self._requests.messages)) - self._reported

    @property
    def open_requests(self) -> list[OpenRequest]:
        """Those whose head is whole: before that nobody knows what they ask for."""
        if self._is_ended:
            return []
        return [open_request(self._first, message.head) for message in self._requests.messages[self._reported :]]

    @property
    def is_settled(self) -> bool:
        """Every request seen so far has been reported, or no more will come."""
        return self.unreported_count == 0

    @property
    def has_head(self) -> bool:
        """Without one there is nothing to report."""
        return bool(self._requests.messages)

    @property
    def unread_request_bytes(self) -> int:
        """Bytes that the last request's length promised and that have not been sent."""
        message = self._requests.open_message
        return 0 if message is None else _unread_bytes(message)

    def feed(self, record: Record) -> list[Exchange]:
        """Takes any record but END; returns the exchanges that it completes."""
        self._flags |= record.flags
        self.lost = record.lost
        if record.kind != Kind.RESPONSE:
            payload, total_bytes = record.payload, record.total_bytes
            if record.flags & RecordFlag.PAYLOAD_IS_END:
                payload = self._behind_chunks(record)
                total_bytes = len(payload)
            elif record.kind == Kind.REQUEST_MORE:
                self._end_answered_chunks(record)
            self._requests.feed(record.request_bytes - total_bytes, payload, total_bytes, record.at_monotonic_ns)
            return self._take_complete()
        if record.request_bytes > self._requests.offset:
            self._requests.skip_to(record.request_bytes, record.request_last_monotonic_ns)
        if not self.has_head:
            self._requests.take_cut_head()  # answered before it was whole
        self._tail = record.tail
        self._answered_bytes = record.request_bytes
        self._feed_response(record)
        return self._take_complete()

    def _end_answered_chunks(self, record: Record) -> None:
        """A request behind a chunked one that has been answered: to the kernel an answer that came in one call with an
        interim one was none, so it takes both for one run."""
        message = self._requests.open_message
        if (
            message is not None
            and message.framing == CHUNKED
            and not self._requests.is_in_chunks
            and self._reported == len(self._requests.messages)
            and self._answered_bytes == record.request_bytes - record.total_bytes
            and _BEGINNING.match(record.payload)
        ):
            message.is_complete = True
            if len(self._final_responses()) > self._reported:  # some to requests that were not captured
                self._paired_count = min(self._paired_count, self._reported)

    def _behind_chunks(self, record: Record) -> bytes:
        """What follows the end of a chunked body in the last bytes of a call; all of them when no body ends there.

        A last chunk and behind it a request line: nothing else looks so, and the sizes before were not captured. A
        client that sends it before the answer may have sent others in what was not: which answer is whose is not known.
        """
        message = self._requests.open_message
        is_followed = (
            self._requests.is_in_chunks and record.request_bytes - len(record.payload) == self._requests.offset
        )
        if message is None or message.framing != CHUNKED or is_followed:
            return record.payload
        end = LAST_CHUNK_AND_REQUEST.search(record.payload)
        if end is None:
            return record.payload
        rest = record.payload[end.end() :]
        self._requests.skip_to(record.request_bytes - len(rest), record.at_monotonic_ns)
        message.is_complete = True
        message.inferred |= Inferred.REQUEST_END_BY_LAST_CHUNK
        if len(self._final_responses()) < len(self._requests.messages):
            self._paired_count = min(self._paired_count, len(self._requests.messages))
        return rest

    def _feed_response(self, record: Record) -> None:
        """The kernel follows the chunks behind the first head of a call that begins like one. So what it says is not
        about a response that begins further on; and once there is a record about a body, it took that for a head."""
        reader, begun = self._responses, len(self._responses.messages)
        if not reader.is_in_head:
            self._begins_with_head = reader.open_message is None
        offset = record.response_bytes - record.total_bytes
        reader.feed(offset, record.payload, record.total_bytes, record.at_monotonic_ns)
        message = reader.open_message
        if message is None or message.framing != CHUNKED:
            return
        is_followed = self._begins_with_head and message is reader.messages[begun]
        # An empty line at the end of what was captured is the head's to the kernel, also where it is the body's.
        if not is_followed or (message.wire_bytes > message.head.length and record.payload.endswith(END_OF_HEAD)):
            self._doubted = message
            if self._are_chunks_followed:
                self._are_chunks_followed = False
                message.body_bytes = None

    def advance(self, progress: Progress | Record) -> list[Exchange]:
        """The kernel has counted so many bytes; returns the exchanges that are complete by that."""
        self._tail = progress.tail
        self._requests.skip_to(progress.request_bytes, progress.request_last_monotonic_ns)
        self._responses.skip_to(progress.response_bytes, progress.response_last_monotonic_ns)
        message = self._responses.open_message
        if message is not None and message.framing == CHUNKED:
            if progress.flags & RecordFlag.CHUNKS_FOLLOWED and message is not self._doubted:
                # The kernel has read every size line: this is exact, where the last bytes alone could deceive.
                self._are_chunks_followed = True
                message.body_bytes = progress.chunk_payload_bytes
                message.is_complete = bool(progress.flags & RecordFlag.CHUNKS_ENDED)
            elif self._are_chunks_followed:
                self._are_chunks_followed = False  # given up: what was counted until then is not the size
                message.body_bytes = None
        return self._take_complete()

    def would_guess(self, progress: Progress) -> bool:
        """Does it tell of bytes that a record may still explain? The table is ahead of the ring."""
        return self._requests.would_guess(progress.request_bytes) or self._responses.would_guess(
            progress.response_bytes
        )

    def after_quiet(self, quiet_ns: int) -> list[Exchange]:
        """No byte of the response has moved for so long; returns the exchanges that are complete by that."""
        if quiet_ns > _LAST_CHUNK_QUIET_NS:
            self._believe_last_chunk()
        return self._take_complete(is_request_awaited=quiet_ns < _REQUEST_AWAITED_NS)

    def end(self, reason: EndReason, at_ns: int, flags: int = 0, *, is_late: bool = False) -> list[Exchange]:
        """No more will come, since at_ns or before (`is_late`): reports what is left, as far as it was seen."""
        self._flags |= flags
        self._requests.take_cut_head()
        self._believe_last_chunk()
        message = self._responses.open_message
        if message is not None:
            is_closed = reason in (EndReason.CLOSED, EndReason.PEER_CLOSED)
            if reason == EndReason.NEXT_REQUEST and message.framing < 0:
                # A client that has gone on has read the response to its end.
                _complete(message, Inferred.RESPONSE_END_BY_NEXT_REQUEST)
            elif is_closed and message.framing == UNTIL_CLOSE:
                _complete(message, Inferred.RESPONSE_END_BY_CLOSE)
        responses = self._final_responses()[: self._paired_count]
        done: list[Exchange] = []
        for index in range(self._reported, len(self._requests.messages)):
            response = responses[index] if index < len(responses) else None
            if response is not None and response.is_complete:
                done.append(self._exchange(index, response, Outcome.COMPLETE, response.last_ns))
            else:
                is_certain = index < self._paired_count and self._is_end_missing()
                outcome = self._outcome(reason) if is_certain else Outcome.UNKNOWN
                exchange = self._exchange(index, response, outcome, at_ns)
                if is_late:
                    exchange.inferred |= Inferred.END_TIME
                done.append(exchange)
        self._reported = len(self._requests.messages)
        self._is_ended = True
        return done

    def _is_end_missing(self) -> bool:
        """Have the responses really broken off? Where the place in the stream was lost, what is missing may have come."""
        messages = self._responses.messages
        if self._responses.is_lost or (messages and messages[-1].inferred):
            return False
        message = self._responses.open_message
        if message is None or message.framing >= 0:
            return True
        is_followed = self._are_chunks_followed or self._responses.is_in_chunks
        return message.framing == UNTIL_CLOSE or (message.framing == CHUNKED and is_followed)

    def _believe_last_chunk(self) -> None:
        """Completes a chunked response whose last bytes are those of a last chunk. Evidence, not proof: a chunk
        may hold the same bytes, so this is for a connection that has gone quiet or on to the next request."""
        message = self._responses.open_message
        if message is None or message.framing != CHUNKED or message.is_cut or self._are_chunks_followed:
            return
        if (b"\0" + self._tail).endswith(_LAST_CHUNK) or self._is_only_last_chunk(message):
            _complete(message, Inferred.RESPONSE_END_BY_LAST_CHUNK)

    def _is_only_last_chunk(self, message: Message[ResponseHead]) -> bool:
        return message.wire_bytes == message.head.length + 5 and self._tail.endswith(_LAST_CHUNK[2:])

    def _framing_of_response(self, head: ResponseHead) -> int:
        index = len(self._final_responses())
        requests = self._requests.messages
        method = requests[index].head.method if index < len(requests) else b""
        return 0 if head.is_interim else response_framing(head, method)

    def _final_responses(self) -> list[Message[ResponseHead]]:
        messages = self._responses.messages
        while self._seen_responses < len(messages):
            message = messages[self._seen_responses]
            self._seen_responses += 1
            if not message.head.is_interim:
                self._finals.append(message)
        return self._finals

    def _take_complete(self, *, is_request_awaited: bool = True) -> list[Exchange]:
        """A server may answer before it has read the request to its end: its size is known only then."""
        responses = self._final_responses()
        done: list[Exchange] = []
        while self._reported < min(len(responses), len(self._requests.messages), self._paired_count):
            response = responses[self._reported]
            is_partial = bool(_unread_bytes(self._requests.messages[self._reported]))
            if not response.is_complete or (is_partial and is_request_awaited):
                break
            exchange = self._exchange(self._reported, response, Outcome.COMPLETE, response.last_ns)
            if is_partial:
                exchange.request_body_bytes = None
            done.append(exchange)
            self._reported += 1
        return done

    def _outcome(self, reason: EndReason) -> Outcome:
        is_server = self._first.role == Role.SERVER
        if reason == EndReason.RESET:
            return Outcome.RESET
        if reason == EndReason.TIMED_OUT:
            return Outcome.TIMEOUT
        if reason == EndReason.CLOSED:
            has_client_left = not is_server or self._flags & RecordFlag.PEER_SHUTDOWN
            return Outcome.CLIENT_CLOSED if has_client_left else Outcome.SERVER_CLOSED
        if reason == EndReason.PEER_CLOSED:
            return Outcome.CLIENT_CLOSED if is_server else Outcome.SERVER_CLOSED
        return Outcome.UNKNOWN

    def _exchange(self, index: int, response: Message[ResponseHead] | None, outcome: Outcome, end_ns: int) -> Exchange:
        request = self._requests.messages[index]
        head, first = request.head, self._first
        unknown, inferred = Unknown.NOTHING, request.inferred
        if not first.flags & RecordFlag.ROLE_BY_CONNECTION:
            inferred |= Inferred.ROLE_BY_REQUEST
        if request.is_late:
            inferred |= Inferred.REQUEST_END_TIME
        if request.is_cut:
            unknown |= Unknown.REQUEST_HEAD_CUT
        if request.body_bytes is None or not request.is_complete:
            unknown |= Unknown.REQUEST_BODY
        if response is not None:
            inferred |= response.inferred
            if response.is_late and outcome is Outcome.COMPLETE:
                inferred |= Inferred.END_TIME
            if response.is_cut:
                unknown |= Unknown.RESPONSE_HEAD_CUT
            if response.framing == UNREADABLE:
                unknown |= Unknown.RESPONSE_END
            if response.body_bytes is None:
                unknown |= Unknown.RESPONSE_BODY
        if index:
            self.extra += 1
        return Exchange(
            first.connection,
            first.position + self.extra,
            first.pid,
            first.tid,
            first.service_pid,
            Role.SERVER if first.role == Role.SERVER else Role.CLIENT,
            first.family,
            first.local_address,
            first.local_port,
            first.remote_address,
            first.remote_port,
            head.method,
            head.target,
            head.version,
            head.fields.host,
            head.fields.user_agent,
            head.fields.forwarded_for,
            head.fields.traceparent,
            head.fields.tracestate,
            None if response is None else response.head.status,
            request.start_ns,
            request.last_ns,
            None if response is None else response.start_ns,
            None if response is None else response.last_ns,
            end_ns,
            request.wire_bytes,
            0 if response is None else response.wire_bytes,
            request.body_bytes,
            None if response is None else response.body_bytes,
            outcome,
            unknown,
            inferred,
            head.headers,
            b"" if response is None else response.head.headers,
        )


def _complete(message: Message[ResponseHead], inferred: Inferred) -> None:
    message.is_complete = True
    message.inferred |= inferred


def _unread_bytes(request: Message[RequestHead]) -> int:
    """What its length promises beyond what was sent."""
    if request.is_complete or request.framing <= 0:
        return 0
    if request.head.fields.expects_continue and not request.body_bytes:
        return 0  # RFC 9110 section 10.1.1: a client that was refused need not send the body
    return request.framing - (request.body_bytes or 0)
