"""Where the span of an exchange belongs; known before anything of it is built, so that a sampler can decide.

In:   an exchange
Out:  its ids, its parent, its flags
Owns: the source of ids

- A SERVER span takes the trace of the request's traceparent and has the span named there as its remote parent.
- A CLIENT request that carries a traceparent was instrumented by the application itself: the header names the
  application's own span for this call. Ours then is a child of that span: the same call, seen from below.
- The trace flags are the header's, or those of a new trace.
"""

from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.telemetry.trace_context import FLAG_RANDOM, FLAG_SAMPLED, IdSource, TraceParent, parse_traceparent

# Span.flags in OTLP: the W3C flags, and whether it is known and true that the parent is on another host.
HAS_IS_REMOTE = 0x100
IS_REMOTE = 0x200
ROOT_FLAGS = HAS_IS_REMOTE | FLAG_SAMPLED | FLAG_RANDOM
_SERVER = Role.SERVER  # looking into an enum takes a while
_new_tuple = tuple.__new__


class SpanPlace(NamedTuple):
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes  # b"" for a root
    flags: int  # Span.flags of OTLP; the sampled flag is the parent's, and set for a root
    tracestate: bytes | None  # as it was received


class Places:
    def __init__(self, ids: IdSource) -> None:
        self._ids = ids

    def of(self, exchange: Exchange) -> SpanPlace:
        parent = parent_of(exchange)
        return self.root(exchange) if parent is None else self.child(exchange, parent)

    def root(self, exchange: Exchange) -> SpanPlace:
        trace_id, span_id = self._ids.ids(exchange.connection, exchange.position)
        return _new_tuple(SpanPlace, (trace_id, span_id, b"", ROOT_FLAGS, None))

    def child(self, exchange: Exchange, parent: TraceParent) -> SpanPlace:
        span_id = self._ids.ids(exchange.connection, exchange.position)[1]
        trace_id, parent_span_id, parent_flags = parent
        flags = HAS_IS_REMOTE | parent_flags | (IS_REMOTE if exchange.role is _SERVER else 0)
        return _new_tuple(SpanPlace, (trace_id, span_id, parent_span_id, flags, exchange.tracestate))


def parent_of(exchange: Exchange) -> TraceParent | None:
    return parse_traceparent(exchange.traceparent) if exchange.traceparent is not None else None
