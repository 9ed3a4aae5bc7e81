"""A run of the plain shape: one request in one record, one response whose head is in one record and tells its length.

In:   the records of one (connection, position)
Out:  its one exchange
Owns: the two heads

Nearly all runs are plain, and then nothing needs to be followed but two counts. What does not fit the shape is not
judged here: `feed` and `advance` return None, and `with_readers` gives a Run that has seen the same.
"""

from typing import Optional

from otel_ebpf.exchanges.exchange import HTTP, HTTPS, Exchange, Inferred, OpenRequest, Outcome, Role, Unknown
from otel_ebpf.exchanges.http1 import (
    NotHttpError,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
    response_framing,
)
from otel_ebpf.exchanges.kin import NO_HEADERS, Kin, TraceHeaders
from otel_ebpf.exchanges.making import open_request
from otel_ebpf.exchanges.run import Run
from otel_ebpf.records.kinds import Kind, Record, RecordFlag
from otel_ebpf.records.progress import Progress

# Looking up a member of an enumeration takes longer than what is done with it.
_ROLE_BY_CONNECTION = int(RecordFlag.ROLE_BY_CONNECTION)
_TLS = int(RecordFlag.TLS)
_UNSENT = int(RecordFlag.UNSENT)
_ROLE_BY_REQUEST = Inferred.ROLE_BY_REQUEST
_NOTHING = Inferred.NOTHING
_REQUEST, _RESPONSE, _END = int(Kind.REQUEST), int(Kind.RESPONSE), int(Kind.END)
_SERVER, _CLIENT, _COMPLETE, _ALL_KNOWN = Role.SERVER, Role.CLIENT, Outcome.COMPLETE, Unknown.NOTHING


Head = RequestHead | ResponseHead | None


def read_ahead(record: Record) -> Head:
    """The head that a plain run would find in this record. None is no judgement: it is to be read where it matters."""
    kind, payload = record.kind, record.payload
    try:
        if kind == _REQUEST:
            return parse_request_head(payload)
        return parse_response_head(payload) if kind == _RESPONSE and payload[:5] == b"HTTP/" else None
    except NotHttpError:
        return None


class PlainRun:
    # What a Run may be besides.
    is_unpaired = False
    has_overlapped = False
    owes_answers = False
    is_single = True
    is_plain = True

    __slots__ = (
        "_body_bytes",
        "_first",
        "_head",
        "_is_unsent",
        "_response",
        "_response_bytes",
        "_response_head",
        "_response_last_ns",
        "connection",
        "extra",
        "is_settled",
        "kin",
        "lost",
        "position",
    )

    def __init__(self, first: Record, head: RequestHead, extra: int) -> None:
        self.connection = first.connection
        self.position = first.position
        self.lost = first.lost
        self.extra = extra
        self.is_settled = False
        self.kin: Kin | None = None
        self._first = first
        self._head = head
        self._response: Record | None = None
        self._response_head: ResponseHead | None = None
        self._body_bytes = 0  # that the response's head promises
        self._response_bytes = 0
        self._response_last_ns = 0
        self._is_unsent = False  # all is there, and the kernel has not said yet when it was sent

    @classmethod
    def begin(cls, first: Record, extra: int, head: Head = None) -> Optional["PlainRun"]:
        """None when the record is not exactly one request; `head` as from `read_ahead`. Raises NotHttpError."""
        if not isinstance(head, RequestHead):
            head = parse_request_head(first.payload)
        if head is None or head.framing < 0 or first.total_bytes != head.length + head.framing:
            return None
        return cls(first, head, extra)

    def is_settled_before(self, record: Record) -> bool:
        """Is it over, and was nothing lost between it and the request that `record` begins?"""
        return self.is_settled and record.position == self.position + 1 and record.lost == self.lost

    @property
    def first_record(self) -> Record:
        return self._first

    @property
    def is_answered(self) -> bool:
        return self._response is not None

    @property
    def request_line(self) -> tuple[bytes, bytes]:
        return self._head[:2]

    @property
    def trace_headers(self) -> TraceHeaders:
        fields = self._head.fields
        return NO_HEADERS if fields.traceparent is None else TraceHeaders(fields.traceparent, fields.tracestate)

    @property
    def kept_bytes(self) -> int:
        return len(self._first.payload) + (0 if self._response is None else len(self._response.payload))

    @property
    def unread_request_bytes(self) -> int:
        return 0

    def may_hold(self, _: bytes) -> bool:
        return False

    @property
    def service_pid(self) -> int:
        return self._first.service_pid

    @property
    def pipelined_count(self) -> int:
        return 0

    @property
    def unseen_count(self) -> int:
        return 0

    @property
    def unreported_count(self) -> int:
        return 0 if self.is_settled else 1

    @property
    def open_requests(self) -> list[OpenRequest]:
        return [] if self.is_settled else [open_request(self._first, self._head)]

    def feed(self, record: Record, head: Head = None) -> list[Exchange] | None:
        """The exchange when the response is whole, nothing while it is not, None when this is not plain."""
        if record.kind != _RESPONSE or record.request_bytes != self._first.total_bytes:
            return None
        if self._response is not None:
            return self.advance(record)
        if not isinstance(head, ResponseHead):
            head = parse_response_head(record.payload)
        if head is None or head.is_interim or record.response_bytes != record.total_bytes:
            return None
        framing = response_framing(head, self._head.method)
        if framing < 0 or record.response_bytes > head.length + framing:
            return None
        self._response, self._response_head, self._body_bytes = record, head, framing
        self.lost = record.lost
        return self._advance(record.response_bytes, record.at_monotonic_ns, bool(record.flags & _UNSENT))

    def advance(self, progress: Progress | Record) -> list[Exchange] | None:
        """As `feed`, by what the kernel has counted."""
        if progress.request_bytes != self._first.total_bytes:
            return None
        if progress.response_bytes == self._response_bytes and not self._is_unsent:
            return []
        if self._response is None:
            return None
        is_unsent = bool(progress.flags & _UNSENT)
        if is_unsent and isinstance(progress, Record) and progress.kind == _END:
            return None  # nobody will say
        return self._advance(progress.response_bytes, progress.response_last_monotonic_ns, is_unsent)

    def would_guess(self, progress: Progress) -> bool:
        """See Run."""
        head = self._response_head
        promised_bytes = 0 if head is None else head.length + self._body_bytes
        return progress.request_bytes != self._first.total_bytes or progress.response_bytes > promised_bytes

    def with_readers(self) -> Run:
        """What has been reported already is so for the new one too."""
        run = Run(self._first, self.extra)
        run.kin = self.kin
        run.feed(self._first)
        if self._response is not None:
            run.feed(self._response)
            run.advance(
                Progress(
                    self.position,
                    0,
                    False,
                    self.lost,
                    _UNSENT if self._is_unsent else 0,
                    self._response_bytes,
                    self._response_last_ns,
                    self._first.total_bytes,
                    self._first.at_monotonic_ns,
                    self._response.tail,
                    0,
                )
            )
        return run

    def _advance(self, response_bytes: int, last_ns: int, is_unsent: bool) -> list[Exchange] | None:
        response, response_head = self._response, self._response_head
        assert response is not None
        assert response_head is not None
        left = response_head.length + self._body_bytes - response_bytes
        if self.is_settled or left < 0:
            return None
        self._response_bytes, self._response_last_ns, self._is_unsent = response_bytes, last_ns, is_unsent
        if left or is_unsent:
            return []
        self.is_settled = True
        if self.kin is not None:
            self.kin.end()
        (
            _, _, role, family, _, flags, _, pid, tid, service_pid, position, connection, at_ns, _, _, _, _,
            request_bytes, local_port, remote_port, local_address, remote_address, _, _, _, _, _, _, _, _,
        ) = self._first  # fmt: skip
        method, target, version, fields, body_bytes, _, headers = self._head
        host, user_agent, forwarded_for, traceparent, tracestate, _, _ = fields
        return [
            Exchange(
                connection,
                position + self.extra,
                pid,
                tid,
                service_pid,
                _SERVER if role == 2 else _CLIENT,
                family,
                local_address,
                local_port,
                remote_address,
                remote_port,
                method,
                target,
                version,
                host,
                user_agent,
                forwarded_for,
                traceparent,
                tracestate,
                response_head.status,
                at_ns,
                at_ns,
                response.at_monotonic_ns,
                last_ns,
                last_ns,
                request_bytes,
                response_bytes,
                body_bytes,
                self._body_bytes,
                _COMPLETE,
                _ALL_KNOWN,
                _NOTHING if flags & _ROLE_BY_CONNECTION else _ROLE_BY_REQUEST,
                headers,
                response_head.headers,
                HTTPS if flags & _TLS else HTTP,
                self.kin,
            )
        ]
