"""Puts together what is reported of a request: an Exchange when it has ended, an OpenRequest before.

In:   the record that began its position, the request and its response as they were read
Out:  Exchange, OpenRequest, Outcome
Owns: nothing
"""

from otel_ebpf.exchanges.exchange import HTTP, HTTPS, Exchange, Inferred, OpenRequest, Outcome, Role, Unknown
from otel_ebpf.exchanges.http1 import UNREADABLE, RequestHead, ResponseHead
from otel_ebpf.exchanges.reader import Message
from otel_ebpf.records.kinds import EndReason, Record, RecordFlag


def exchange_of(
    first: Record,
    number: int,
    request: Message[RequestHead],
    response: Message[ResponseHead] | None,
    outcome: Outcome,
    end_ns: int,
) -> Exchange:
    """`number` is that of the exchange on its connection."""
    head = request.head
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
    return Exchange(
        first.connection,
        number,
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
        scheme_of(first),
    )


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
        scheme_of(first),
    )


def outcome_of(role: int, reason: EndReason, flags: int) -> Outcome:
    """Of what is not whole when the run ends, to a process of this role."""
    if reason == EndReason.RESET:
        return Outcome.RESET
    if reason == EndReason.TIMED_OUT:
        return Outcome.TIMEOUT
    if reason == EndReason.CLOSED:
        has_client_left = role != Role.SERVER or flags & RecordFlag.PEER_SHUTDOWN
        return Outcome.CLIENT_CLOSED if has_client_left else Outcome.SERVER_CLOSED
    if reason == EndReason.PEER_CLOSED:
        return Outcome.CLIENT_CLOSED if role == Role.SERVER else Outcome.SERVER_CLOSED
    return Outcome.UNKNOWN


def scheme_of(record: Record) -> bytes:
    return HTTPS if record.flags & RecordFlag.TLS else HTTP


def unread_bytes(request: Message[RequestHead]) -> int:
    """What its length promises beyond what was sent."""
    if request.is_complete or request.framing <= 0:
        return 0
    if request.head.fields.expects_continue and not request.body_bytes:
        return 0  # RFC 9110 section 10.1.1: a client that was refused need not send the body
    return request.framing - (request.body_bytes or 0)
