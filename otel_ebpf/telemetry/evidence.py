"""What of an exchange was inferred rather than read, and from what: attributes named `otel_ebpf.evidence.*`.

In:   Exchange; its route, with the table that gave it
Out:  attributes, one for each inference
Owns: nothing

A field without such an attribute was read from the wire, from the socket or from the settings. Of a parent it is always
told what it rests on.
"""

from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome
from otel_ebpf.exchanges.kin import ParentState
from otel_ebpf.telemetry.places import BY_TRACEPARENT, parent_evidence
from otel_ebpf.telemetry.routes import RouteTable
from otel_ebpf.telemetry.spans import Attributes

PREFIX = "otel_ebpf.evidence."

# README.md has the same table, with what each means.
BY_INFERENCE = (
    (Inferred.ROLE_BY_REQUEST, (f"{PREFIX}role", b"request")),
    (Inferred.REQUEST_END_TIME, (f"{PREFIX}request_end_time", b"upper_bound")),
    (Inferred.RESPONSE_END_BY_LAST_CHUNK, (f"{PREFIX}response_end", b"last_chunk")),
    (Inferred.RESPONSE_END_BY_NEXT_REQUEST, (f"{PREFIX}response_end", b"next_request")),
    (Inferred.RESPONSE_END_BY_NEXT_RESPONSE, (f"{PREFIX}response_end", b"next_response")),
    (Inferred.RESPONSE_END_BY_CLOSE, (f"{PREFIX}response_end", b"close")),
    (Inferred.END_TIME, (f"{PREFIX}end_time", b"upper_bound")),
    (Inferred.LOOKUP_BY_ADDRESS, (f"{PREFIX}dns_lookup", b"address_and_host")),
)
END_NOT_SEEN = (f"{PREFIX}response_end", b"not_seen")
ROUTE_BY_HEURISTIC = (f"{PREFIX}route", b"heuristic")
SERVER_BY_LOOKUP = (f"{PREFIX}server_address", b"dns_lookup")
PARENT, PARENT_STATE = f"{PREFIX}parent", f"{PREFIX}parent_state"
# What the kernel side gives, and what is found here.
_PARENTS = (
    *(b"traceparent", b"connection", b"thread", b"context", b"greenlet", b"executor", b"goroutine", b"handler"),
    *(b"process", b"upstream", b"callback", b"request_context"),
)
PARENTS = tuple((PARENT, name) for name in _PARENTS)
PARENT_STATES = tuple((PARENT_STATE, state.name.lower().encode()) for state in ParentState if state)
MOST_EVIDENCE = 9  # attributes of one exchange: each name once


def evidence_of(exchange: Exchange, route: bytes | None, routes: RouteTable) -> Attributes:
    found = [attribute for inference, attribute in BY_INFERENCE if exchange.inferred & inference]
    if exchange.outcome is Outcome.UNKNOWN:
        found.append(END_NOT_SEEN)
    if route is not None and routes.has_guessed(route):
        found.append(ROUTE_BY_HEURISTIC)
    if exchange.asked_name is not None:
        found.append(SERVER_BY_LOOKUP)
    parent, link = parent_evidence(exchange), exchange.link
    if parent is not None:
        found.append((PARENT, parent.encode()))
    if link is not None and parent != BY_TRACEPARENT and link.state is not ParentState.OPEN:
        found.append((PARENT_STATE, link.state.name.lower().encode()))
    return tuple(dict(found).items())  # each name once
