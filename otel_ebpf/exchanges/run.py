"""One run of a connection: requests, then responses. Usually one of each, and then the next run begins.

In:   the records of one (connection, position), oldest first; of further positions while responses are to come
Out:  exchanges, each once: as soon as its response is whole, or when the run ends
Owns: which response is whose, and which requests have been reported

HTTP/1 answers in the order of the requests (RFC 9112 section 9.3.2): the n-th final response answers the n-th
request of the run. A client that does not wait may send a request while responses to others are still to come; the kernel
begins a position there, and the run goes on with it. A server may have read of the next request before its answer was seen,
be it one byte; the kernel begins a position with the rest of that head, and the run goes on with that.
"""

from otel_ebpf.exchanges.exchange import Exchange, Inferred, OpenRequest, Outcome
from otel_ebpf.exchanges.http1 import RequestHead, ResponseHead
from otel_ebpf.exchanges.kin import Kin, TraceHeaders
from otel_ebpf.exchanges.making import exchange_of, open_request, outcome_of, unread_bytes
from otel_ebpf.exchanges.positions import Positions, Told
from otel_ebpf.exchanges.reader import Reader
from otel_ebpf.exchanges.requests import Requests
from otel_ebpf.exchanges.responses import Response, Responses
from otel_ebpf.records.kinds import EndReason, Kind, Record
from otel_ebpf.records.progress import Progress

_LAST_CHUNK_QUIET_NS = 200_000_000
_REQUEST_AWAITED_NS = 500_000_000  # after a response that came before the request's end


class Run:
    """Raises NotHttpError from `feed` when the bytes are not HTTP/1."""

    is_plain = False

    __slots__ = (
        "_extra",
        "_flags",
        "_is_ended",
        "_is_head_torn",
        "_positions",
        "_reported",
        "_requests",
        "_responses",
        "is_unpaired",
        "kin",
        "lost",
    )

    def __init__(self, first: Record, extra: int, *, is_unpaired: bool = False) -> None:
        self.lost = first.lost  # exchanges of the connection that the kernel has counted as lost, modulo 256
        self.is_unpaired = is_unpaired  # answers to other requests may come: which is to which is not known
        self.kin: Kin | None = None  # of the run's first request
        self._positions = Positions(first)
        self._extra = extra
        self._flags = first.flags
        self._reported = 0
        self._is_ended = False
        self._is_head_torn = False  # a piece of one was answered: what comes behind it may be the rest
        self._requests = Requests()
        self._responses = Responses(self._requests.reader)

    @property
    def extra(self) -> int:
        """Exchanges on this connection that the kernel did not count, being pipelined."""
        return self._extra - self._positions.joined

    @property
    def first_record(self) -> Record:
        """Of the newest position, without its bytes."""
        return self._positions.newest

    @property
    def is_single(self) -> bool:
        """One request so far, and it is known which response is its own."""
        positions = self._positions
        return (
            positions.count == 1 and len(self._requests.messages) <= 1 and not (positions.dropped or self.is_unpaired)
        )

    @property
    def is_answered(self) -> bool:
        return bool(self._responses.finals)

    @property
    def request_line(self) -> tuple[bytes, bytes] | None:
        """Of the first request; None while its head is not whole."""
        head = self._first_head
        return None if head is None else head[:2]

    @property
    def trace_headers(self) -> TraceHeaders | None:
        head = self._first_head
        return None if head is None else TraceHeaders(head.fields.traceparent, head.fields.tracestate)

    @property
    def _first_head(self) -> RequestHead | None:
        messages = self._requests.messages
        return messages[0].head if messages and not self._positions.dropped else None

    @property
    def readers(self) -> tuple[Reader[RequestHead], Reader[ResponseHead]]:
        """Of requests and of responses, to look at."""
        return self._requests.reader, self._responses.reader

    @property
    def kept_bytes(self) -> int:
        requests, responses = self.readers
        return requests.kept_bytes + responses.kept_bytes + self._positions.kept_bytes

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
        return int(self._requests.reader.is_lost and self.has_head)

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

    def is_answer_out_of_turn(self, record: Record) -> bool:
        """These bytes of a response answer a request whose head is not whole."""
        return not (self.has_head or self._responses.awaited_count or self._responses.goes_on_with(record))

    @property
    def has_overlapped(self) -> bool:
        """The client was seen to send on while a response was to come."""
        return self._responses.has_overlapped

    @property
    def owes_answers(self) -> bool:
        """When the run ends here: answers to its requests may come to those behind it. Or an answer to one of those has
        come already, as an answer too many: so may theirs be."""
        if self.is_unpaired or self._responses.awaited_count != 0 or self._requests.reader.has_begun_head:
            return True
        return self.has_overlapped and not self.is_settled

    @property
    def unread_request_bytes(self) -> int:
        """Bytes that the last request's length promised and that have not been sent."""
        return self._requests.unread_bytes

    @property
    def is_between_requests(self) -> bool:
        """The next byte that is sent begins one."""
        return self._requests.are_between

    def may_hold(self, payload: bytes) -> bool:
        """May the next position begin within the last request, of which it is not known where it ends?"""
        return self._is_head_torn or self._requests.may_hold(payload)

    def feed(self, record: Record) -> list[Exchange]:
        """Takes any record but END; returns the exchanges that it completes."""
        self._flags |= record.flags
        self.lost = record.lost
        record = self._positions.in_stream(record)
        if record.kind != Kind.RESPONSE:
            if record.kind == Kind.REQUEST_MORE and not self.is_unpaired:
                self._responses.advance(record)  # counted since the last record, and told by no other
            self._requests.feed(record)
            return self._take_complete()
        self._requests.advance(record)
        if self.is_answer_out_of_turn(record):
            self._is_head_torn = self._is_head_torn or self._requests.is_amid_head
            self._requests.reader.take_cut_head()  # answered before it was whole
        if self.is_unpaired:
            return []
        self._responses.feed(record)
        return self._take_complete()

    def in_stream(self, told: Told) -> Told:
        """With its counts since the run began."""
        return self._positions.in_stream(told)

    def before_next(self) -> list[Exchange]:
        """The client has sent its next request."""
        self._responses.believe_last_chunk()
        return self._take_complete()

    def may_go_on(self) -> bool:
        """Does what the kernel takes for the next exchange belong to this run? A head has begun that goes on there, or
        responses are still to come."""
        if self._is_ended:
            return False
        if self._requests.is_amid_head:
            return self._responses.awaited_count >= 0  # else it has been answered as far as it was read
        if self.is_unpaired or self.is_settled or not self.has_head:
            return False
        return self._requests.are_between and self._responses.may_go_on

    def goes_on_with(self, record: Record) -> bool:
        """Does the next position belong to this run?"""
        return record.position == self.position + 1 and record.lost == self.lost and self.may_go_on()

    def go_on_with(self, record: Record) -> None:
        """Before `feed` of the record that begins the next position."""
        reported, self._reported = self._reported, 0
        requests, responses = self.readers
        requests.forget(reported)
        self._responses.go_on(reported, record)
        self._positions.begin(record, reported, len(requests.messages), requests.offset, responses.offset)

    def drop_head(self) -> None:
        """The one in pieces has turned out to be none."""
        self._requests.reader.drop_head()

    def advance(self, progress: Progress | Record) -> list[Exchange]:
        """The kernel has counted so many bytes; returns the exchanges that are complete by that."""
        progress = self._positions.in_stream(progress)
        self._requests.advance(progress)
        if self.is_unpaired:
            return []
        self._responses.advance(progress)
        return self._take_complete()

    def would_guess(self, progress: Progress) -> bool:
        """Does it tell of bytes that a record may still explain? The table is ahead of the ring."""
        progress = self._positions.in_stream(progress)
        return self._requests.reader.would_guess(progress.request_bytes, is_last=False) or self._responses.would_guess(
            progress
        )

    def after_quiet(self, quiet_ns: int) -> list[Exchange]:
        """No byte of the response has moved for so long; returns the exchanges that are complete by that."""
        if quiet_ns > _LAST_CHUNK_QUIET_NS:
            self._responses.believe_last_chunk()
        return self._take_complete(is_request_awaited=quiet_ns < _REQUEST_AWAITED_NS)

    def end(self, reason: EndReason, at_ns: int, flags: int = 0, *, is_late: bool = False) -> list[Exchange]:
        """No more will come, since at_ns or before (`is_late`): reports what is left, as far as it was seen."""
        self._flags |= flags
        self._requests.reader.take_cut_head()
        self._responses.end(reason, at_ns)
        outcome = outcome_of(self._positions.newest.role, reason, self._flags)
        has_broken_off = not self.is_unpaired and self._responses.have_broken_off
        responses = self._responses.finals
        done: list[Exchange] = []
        for index in range(self._reported, len(self._requests.messages)):
            response = responses[index] if index < len(responses) else None
            if response is not None and response.is_complete and not response.is_abandoned:
                exchange = self._exchange(index, response, Outcome.COMPLETE, response.last_ns)
            else:
                exchange = self._exchange(index, response, outcome if has_broken_off else Outcome.UNKNOWN, at_ns)
                if is_late:
                    exchange.inferred |= Inferred.END_TIME
            if reason == EndReason.NEXT_REQUEST and unread_bytes(self._requests.messages[index]):
                exchange.request_body_bytes = None  # what comes next is of it
            done.append(exchange)
        self._reported = len(self._requests.messages)
        self._is_ended = True
        return done

    def _take_complete(self, *, is_request_awaited: bool = True) -> list[Exchange]:
        """A server may answer before it has read the request to its end: its size is known only then."""
        requests, responses = self._requests.messages, self._responses.finals
        done: list[Exchange] = []
        if self._reported >= len(responses):
            return done
        while self._reported < min(len(responses), len(requests)):
            response = responses[self._reported]
            is_partial = bool(unread_bytes(requests[self._reported]))
            is_whole = response.is_complete and not self._responses.is_unsent(response)
            if not is_whole or (is_partial and is_request_awaited):
                break
            outcome = Outcome.UNKNOWN if response.is_abandoned else Outcome.COMPLETE
            exchange = self._exchange(self._reported, response, outcome, response.last_ns)
            if is_partial:
                exchange.request_body_bytes = None
            done.append(exchange)
            self._reported += 1
        return done

    def _exchange(self, index: int, response: Response | None, outcome: Outcome, end_ns: int) -> Exchange:
        first, is_first = self._positions.origin(index)
        if not is_first:
            self._extra += 1
        exchange = exchange_of(
            first, first.position + self._extra, self._requests.messages[index], response, outcome, end_ns
        )
        if self.kin is not None and index + self._positions.dropped == 0:
            self.kin.end(TraceHeaders(exchange.traceparent, exchange.tracestate))
            exchange.kin = self.kin
        return exchange
