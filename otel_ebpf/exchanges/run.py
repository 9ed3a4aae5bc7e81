"""One run of a connection: requests, then responses. Usually one of each, and then the next run begins.

In:   the records of one (connection, position), oldest first; of further positions while responses are to come
Out:  exchanges, each once: as soon as its response is whole, or when the run ends
Owns: the two readers, which requests have been reported

HTTP/1 answers in the order of the requests (RFC 9112 section 9.3.2): the n-th final response answers the n-th
request of the run. A client that does not wait may send a request while responses to others are still to come; the kernel
begins a position there, and the run goes on with it.
"""

import re

from otel_ebpf.exchanges.exchange import Exchange, Inferred, OpenRequest, Outcome, Role
from otel_ebpf.exchanges.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
    response_framing,
)
from otel_ebpf.exchanges.making import exchange_of, open_request, unread_bytes
from otel_ebpf.exchanges.positions import Positions, Told
from otel_ebpf.exchanges.reader import MAX_MESSAGES, Message, Reader
from otel_ebpf.records.kinds import EndReason, Kind, Record, RecordFlag
from otel_ebpf.records.progress import Progress

BEGINS_LIKE_RESPONSE = re.compile(rb"HTTP/1\.[0-9] [1-5][0-9][0-9][ \r\n]")
LAST_CHUNK_AND_REQUEST = re.compile(rb"(?:\A|\n)0+\r\n\r\n(?=[A-Z_-]+ [^ \r\n]+ HTTP/1\.)")
_BEGINNING = re.compile(rb"[A-Z_-]{1,8}(?: |\Z)|[A-Z_-]{8}")  # of a request, as the kernel sees one
_LAST_CHUNK = b"\r\n0\r\n\r\n"
END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK_QUIET_NS = 200_000_000
_REQUEST_AWAITED_NS = 500_000_000  # after a response that came before the request's end


class Run:
    """Raises NotHttpError from `feed` when the bytes are not HTTP/1."""

    __slots__ = (
        "_answered_bytes",
        "_are_chunks_followed",
        "_begins_with_head",
        "_doubted",
        "_finals",
        "_flags",
        "_is_ended",
        "_is_in_flight",
        "_is_unsure",
        "_paired_count",
        "_positions",
        "_reported",
        "_requests",
        "_responses",
        "_seen_responses",
        "_tail",
        "extra",
        "has_overlapped",
        "is_unpaired",
        "lost",
    )

    def __init__(self, first: Record, extra: int, *, is_unpaired: bool = False) -> None:
        self.extra = extra  # exchanges on this connection that the kernel did not count, being pipelined
        self.lost = first.lost  # exchanges of the connection that the kernel has counted as lost, modulo 256
        self.is_unpaired = is_unpaired  # answers to other requests may come: which is to which is not known
        self.has_overlapped = False  # the client was seen to send on while a response was to come
        self._positions = Positions(first)
        self._is_in_flight = False  # by its length; no byte of it has come since the client went on
        self._is_unsure = False  # what was taken for a trailer may hold a further response
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
        return self._requests.kept_bytes + self._responses.kept_bytes + self._positions.kept_bytes

    @property
    def position(self) -> int:
        """The newest."""
        return self._positions.newest.position

    @property
    def connection(self) -> int:
        return self._positions.newest.connection

    @property
    def service_pid(self) -> int:
        return self._positions.newest.service_pid

    @property
    def pipelined_count(self) -> int:
        """Requests beyond the first of each position: the kernel takes those of one for one."""
        positions, request_count = self._positions, len(self._requests.messages)
        return positions.dropped + request_count + (not self.has_head) - positions.count + self.unseen_count

    @property
    def unseen_count(self) -> int:
        """A request that came in one call with the end of a body: its head was not captured."""
        return int(self._requests.is_lost and self.has_head)

    @property
    def unreported_count(self) -> int:
        """Requests that have given no exchange yet; a head that is not whole is one."""
        return 0 if self._is_ended else len(self._requests.messages) + (not self.has_head) - self._reported

    @property
    def open_requests(self) -> list[OpenRequest]:
        """Those whose head is whole: before that nobody knows what they ask for."""
        if self._is_ended:
            return []
        return [
            open_request(self._positions.origin(index)[0], message.head)
            for index, message in enumerate(self._requests.messages)
            if index >= self._reported
        ]

    @property
    def is_settled(self) -> bool:
        """Every request seen so far has been reported, or no more will come."""
        return self.unreported_count == 0

    @property
    def has_head(self) -> bool:
        """Without one the newest position has nothing to report."""
        return len(self._requests.messages) > self._positions.first_request

    @property
    def is_answer_out_of_turn(self) -> bool:
        """A response that begins now answers a request whose head is not whole."""
        return not self.has_head and not self._followers

    @property
    def _followers(self) -> int:
        """Requests whose response has not begun."""
        return len(self._requests.messages) - len(self._final_responses())

    @property
    def owes_answers(self) -> bool:
        """When the run ends here: answers to its requests may come to those behind it."""
        is_unsure = self._followers > 0 or self._paired_count < len(self._requests.messages)
        if self.is_unpaired or is_unsure or self._requests.has_begun_head:
            return True
        return self.has_overlapped and not self.is_settled

    @property
    def unread_request_bytes(self) -> int:
        """Bytes that the last request's length promised and that have not been sent."""
        message = self._requests.open_message
        return 0 if message is None else unread_bytes(message)

    def feed(self, record: Record) -> list[Exchange]:
        """Takes any record but END; returns the exchanges that it completes."""
        self._flags |= record.flags
        self.lost = record.lost
        record = self.in_stream(record)
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
        if self.is_answer_out_of_turn:
            self._requests.take_cut_head()  # answered before it was whole
        if self.is_unpaired:
            return []
        self._meet_beginning(record)
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

    def in_stream(self, told: Told) -> Told:
        """With its counts since the run began."""
        return self._positions.in_stream(told)

    def before_next(self) -> list[Exchange]:
        """The client has sent its next request."""
        self._believe_last_chunk()
        return self._take_complete()

    def may_go_on(self) -> bool:
        """Are responses still to come, also when the client sends its next request?"""
        requests, responses = self._requests, self._responses
        if self._is_ended or self.is_unpaired or requests.is_lost or responses.is_lost or not self.has_head:
            return False
        if self._paired_count < len(requests.messages):
            return False
        if requests.open_message is not None or requests.is_in_head or self.is_settled:
            return False
        message = responses.open_message
        return bool(self._followers) or (message is not None and (message.framing >= 0 or message.framing == CHUNKED))

    def goes_on_with(self, record: Record) -> bool:
        """Does the next position belong to this run?"""
        return record.position == self.position + 1 and record.lost == self.lost and self.may_go_on()

    def go_on_with(self, record: Record) -> None:
        """Before `feed` of the record that begins the next position."""
        reported = self._reported
        finals = self._final_responses()
        if reported:
            answered = self._responses.messages.index(finals[reported - 1]) + 1
            self._responses.forget(answered)
            self._requests.forget(reported)
            del finals[:reported]
            self._seen_responses -= answered
            self._reported = 0
        message = self._responses.open_message
        self.has_overlapped = self.has_overlapped or self._followers > 0
        self._is_in_flight = message is not None and not self._followers
        if message is not None and not record.flags & RecordFlag.CHUNKS_FOLLOWED:
            self._doubt(message)
        self._positions.begin(
            record, reported, len(self._requests.messages), self._requests.offset, self._responses.offset
        )

    def _meet_beginning(self, record: Record) -> None:
        """A call begins like a response while a request waits for one: has the response before it ended?

        Where whole responses may have gone by, it answers the request that waits if that is the only one: had the answer
        gone by, nothing would be left to be answered.
        """
        reader, offset = self._responses, record.response_bytes - record.total_bytes
        was_in_flight, self._is_in_flight = self._is_in_flight, False
        followers, was_unsure, self._is_unsure = self._followers, self._is_unsure, False
        if was_unsure and followers > 1:
            reader.is_lost = True
        if not BEGINS_LIKE_RESPONSE.match(record.payload):
            self.has_overlapped = self.has_overlapped or was_in_flight
            return
        if reader.open_message is None or not followers or reader.is_lost:
            return
        reader.skip_to(offset, record.at_monotonic_ns, is_late=True)
        message = reader.open_message
        if message is None or offset < reader.offset:
            return
        is_followed = reader.is_in_chunks or self._are_chunks_followed
        if message.framing == CHUNKED and not is_followed and followers > 1:
            reader.is_lost = True
        elif message.framing == CHUNKED and not is_followed and self._is_at_an_end():
            _complete(message, Inferred.RESPONSE_END_BY_NEXT_RESPONSE)
        elif was_in_flight:
            # Nothing of it has come since the client went on: so it had ended, and not all of it was seen.
            message.is_complete = message.is_abandoned = True

    def _doubt(self, message: Message[ResponseHead]) -> None:
        """What the kernel says of chunks is not believed of this one."""
        self._doubted = message
        if self._are_chunks_followed:
            self._are_chunks_followed = False
            message.body_bytes = None

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
        if len(reader.messages) > begun and reader.is_in_head:
            self._begins_with_head = False
        if message is None or message.framing != CHUNKED:
            return
        is_followed = self._begins_with_head and message is reader.messages[begun]
        # An empty line at the end of what was captured is the head's to the kernel, also where it is the body's.
        if not is_followed or (message.wire_bytes > message.head.length and record.payload.endswith(END_OF_HEAD)):
            self._doubt(message)

    def advance(self, progress: Progress | Record) -> list[Exchange]:
        """The kernel has counted so many bytes; returns the exchanges that are complete by that."""
        progress = self.in_stream(progress)
        self._requests.skip_to(progress.request_bytes, progress.request_last_monotonic_ns)
        if self.is_unpaired:
            return []
        if progress.response_bytes > self._responses.offset:
            self.has_overlapped = self.has_overlapped or self._is_in_flight
            self._is_in_flight = False
        self._tail = progress.tail
        self._responses.skip_to(progress.response_bytes, progress.response_last_monotonic_ns)
        message = self._responses.open_message
        if message is not None and message.framing == CHUNKED:
            if progress.flags & RecordFlag.CHUNKS_FOLLOWED and message is not self._doubted:
                # The kernel has read every size line: this is exact, where the last bytes alone could deceive.
                self._are_chunks_followed = True
                message.body_bytes = progress.chunk_payload_bytes
                message.is_complete = bool(progress.flags & RecordFlag.CHUNKS_ENDED)
                self._is_unsure = bool(progress.flags & RecordFlag.CHUNKS_TRAILER)
            elif self._are_chunks_followed:
                self._are_chunks_followed = False  # given up: what was counted until then is not the size
                message.body_bytes = None
        return self._take_complete()

    def would_guess(self, progress: Progress) -> bool:
        """Does it tell of bytes that a record may still explain? The table is ahead of the ring."""
        progress = self.in_stream(progress)
        if self._is_in_flight and progress.response_bytes > self._responses.offset:
            return True
        return self._requests.would_guess(progress.request_bytes) or self._responses.would_guess(
            progress.response_bytes, is_last=not self._followers
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
        self._believe_last_chunk(is_over=True)
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
            if response is not None and response.is_complete and not response.is_abandoned:
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
        if self.is_unpaired or self._responses.is_lost or (messages and messages[-1].inferred):
            return False
        if self._is_unsure and self._followers:
            return False
        message = self._responses.open_message
        if message is None or message.framing >= 0:
            return True
        is_followed = self._are_chunks_followed or self._responses.is_in_chunks
        return message.framing == UNTIL_CLOSE or (message.framing == CHUNKED and is_followed)

    def _is_at_an_end(self) -> bool:
        """May the last bytes be the end of chunks? Any last chunk, any trailer ends with an empty line; unread ones are 0."""
        return self._tail[-4:] in (END_OF_HEAD, bytes(4))

    def _believe_last_chunk(self, *, is_over: bool = False) -> None:
        """Completes a chunked response whose last bytes are those of a last chunk. Evidence, not proof: a chunk
        may hold the same bytes, so this is for a connection that has gone quiet or on to the next request."""
        message = self._responses.open_message
        if message is None or message.framing != CHUNKED or message.is_cut or self._are_chunks_followed:
            return
        if self._followers and not is_over:
            return  # it may be the last chunk of a response behind this one
        if (b"\0" + self._tail).endswith(_LAST_CHUNK) or self._is_only_last_chunk(message):
            _complete(message, Inferred.RESPONSE_END_BY_LAST_CHUNK)
            message.is_late = message.is_late or self._followers > 0

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
            is_partial = bool(unread_bytes(self._requests.messages[self._reported]))
            if not response.is_complete or (is_partial and is_request_awaited):
                break
            outcome = Outcome.UNKNOWN if response.is_abandoned else Outcome.COMPLETE
            exchange = self._exchange(self._reported, response, outcome, response.last_ns)
            if is_partial:
                exchange.request_body_bytes = None
            done.append(exchange)
            self._reported += 1
        return done

    def _outcome(self, reason: EndReason) -> Outcome:
        is_server = self._positions.newest.role == Role.SERVER
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
        first, is_first = self._positions.origin(index)
        if not is_first:
            self.extra += 1
        return exchange_of(
            first, first.position + self.extra, self._requests.messages[index], response, outcome, end_ns
        )


def _complete(message: Message[ResponseHead], inferred: Inferred) -> None:
    message.is_complete = True
    message.inferred |= inferred
