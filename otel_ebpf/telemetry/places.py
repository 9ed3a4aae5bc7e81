"""Where the span of an exchange belongs; known before anything of it is built, so that a sampler can decide.

In:   an exchange, with its kin
Out:  its ids, its parent, its flags
Owns: the source of ids; how many parents rest on what

- A `traceparent` in the request's head wins. A SERVER span takes its trace, and has the span named there as its parent. A
  CLIENT request that carries one was instrumented by the application itself: the header names the application's own span
  for this call. Ours then is a child of that span: the same call, seen from below.
- Else the exchange on this host that caused it is its parent (see exchanges/kinship.py). Children end first, so a parent's
  place is asked for before its own span is: it is decided then, for all who ask.
- Else it is the root of a trace of its own.
- The trace flags are the header's, or those of a new trace; they and the tracestate go from parent to child.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.exchanges.kin import MAX_DEPTH, NO_HEADERS, Kin
from otel_ebpf.records.kinds import LinkEvidence
from otel_ebpf.telemetry.trace_context import FLAG_RANDOM, FLAG_SAMPLED, IdSource, TraceParent, parse_traceparent

# Span.flags in OTLP: the W3C flags, and whether it is known and true that the parent is on another host.
HAS_IS_REMOTE = 0x100
IS_REMOTE = 0x200
ROOT_FLAGS = HAS_IS_REMOTE | FLAG_SAMPLED | FLAG_RANDOM
BY_TRACEPARENT, BY_NOTHING = "traceparent", "unknown"
_SERVER = Role.SERVER  # looking into an enum takes a while
_MAX_SERVING = 16384
_new_tuple = tuple.__new__


class SpanPlace(NamedTuple):
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes  # b"" for a root
    flags: int  # Span.flags of OTLP; the sampled flag is the parent's, and of a root as `is_root_kept` says
    tracestate: bytes | None  # as it was received


def keep_all(trace_id: bytes) -> bool:
    return True


class Places:
    def __init__(self, ids: IdSource, is_root_kept: Callable[[bytes], bool] = keep_all) -> None:
        """`is_root_kept`: by its trace id, where its sampled flag decides on all under it."""
        self.links: Counter[str] = Counter()  # exchanges by what their parents rest on
        self.contradictions = 0  # a traceparent and a link that name different traces: the former stands
        self._ids = ids
        self._is_root_kept = is_root_kept
        self._keeps_all_roots = is_root_kept is keep_all
        self._serving: set[int] = set()  # services that have served: calls of others have no parent here

    def with_roots(self, is_root_kept: Callable[[bytes], bool]) -> "Places":
        return Places(self._ids, is_root_kept)

    def of(self, exchange: Exchange) -> SpanPlace:
        """To be asked once for each exchange that has ended."""
        kin = exchange.kin
        if kin is not None:
            place = self._of_kin(kin)
            self._count(exchange, kin)
            return place
        service_pid, traceparent = exchange.service_pid, exchange.traceparent
        parent = None if traceparent is None else parse_traceparent(traceparent)
        if exchange.role is _SERVER:
            if service_pid not in self._serving and len(self._serving) < _MAX_SERVING:
                self._serving.add(service_pid)
        elif parent is None and service_pid in self._serving:
            self.links[BY_NOTHING] += 1
        if parent is None:
            trace_id, span_id = self._ids.ids(exchange.connection, exchange.position)
            flags = ROOT_FLAGS if self._keeps_all_roots else self._root_flags(trace_id)
            return _new_tuple(SpanPlace, (trace_id, span_id, b"", flags, None))
        self.links[BY_TRACEPARENT] += 1
        is_remote = exchange.role is _SERVER
        return self._child(exchange.connection, exchange.position, parent, exchange.tracestate, is_remote)

    def _of_kin(self, kin: Kin) -> SpanPlace:
        """Those come first that it descends from, as far as they are not decided. Where it carries a traceparent that is only to
        see whether they agree, so what may still change is left alone."""
        undecided: list[Kin] = []
        while kin.place is None:
            undecided.append(kin)
            if kin.link is None or len(undecided) > MAX_DEPTH or (kin.first.is_awaited and _named_parent(kin)):
                break
            kin = kin.link.parent
        while undecided:
            kin = undecided.pop()
            kin.place = self._decide(kin)
        assert isinstance(kin.place, SpanPlace)
        return kin.place

    def _decide(self, kin: Kin) -> SpanPlace:
        link, named = kin.link, _named_parent(kin)
        above = link.parent.place if link is not None else None
        if link is not None and link.evidence is LinkEvidence.CONNECTION and _differ(kin, link.parent):
            self.contradictions += 1
            link = kin.link = None
        if named is not None:
            if link is not None and isinstance(above, SpanPlace) and above.trace_id != named.trace_id:
                self.contradictions += 1
            tracestate = (kin.trace_headers or NO_HEADERS).tracestate
            return self._child(kin.connection, kin.number, named, tracestate, kin.is_server and link is None)
        if link is None or not isinstance(above, SpanPlace):
            kin.link = None  # also of what is too deep, or in a circle
            return self._root(kin.connection, kin.number)
        parent = TraceParent(above.trace_id, above.span_id, above.flags & ~(HAS_IS_REMOTE | IS_REMOTE))
        return self._child(kin.connection, kin.number, parent, above.tracestate, False)

    def _count(self, exchange: Exchange, kin: Kin) -> None:
        if exchange.role is _SERVER and len(self._serving) < _MAX_SERVING:
            self._serving.add(exchange.service_pid)
        name = parent_evidence(exchange)
        if name is not None:
            self.links[name] += 1
        elif exchange.role is not _SERVER and exchange.service_pid in self._serving:
            self.links[BY_NOTHING] += 1

    def _root(self, connection: int, number: int) -> SpanPlace:
        trace_id, span_id = self._ids.ids(connection, number)
        return _new_tuple(SpanPlace, (trace_id, span_id, b"", self._root_flags(trace_id), None))

    def _root_flags(self, trace_id: bytes) -> int:
        return ROOT_FLAGS if self._is_root_kept(trace_id) else ROOT_FLAGS & ~FLAG_SAMPLED

    def _child(
        self, connection: int, number: int, parent: TraceParent, tracestate: bytes | None, is_remote: bool
    ) -> SpanPlace:
        span_id = self._ids.ids(connection, number)[1]
        trace_id, parent_span_id, parent_flags = parent
        flags = HAS_IS_REMOTE | parent_flags | (IS_REMOTE if is_remote else 0)
        return _new_tuple(SpanPlace, (trace_id, span_id, parent_span_id, flags, tracestate))


def parent_evidence(exchange: Exchange) -> str | None:
    """What the parent of its span rests on, once its place is known."""
    if exchange.traceparent is not None and parse_traceparent(exchange.traceparent) is not None:
        return BY_TRACEPARENT
    link = exchange.link
    return None if link is None else link.evidence.name.lower()


def _named_parent(kin: Kin) -> TraceParent | None:
    headers = kin.trace_headers
    return None if headers is None or headers.traceparent is None else parse_traceparent(headers.traceparent)


def _differ(server: Kin, client: Kin) -> bool:
    """Both ends of a connection have the same bytes: what one end read and the other did not send is another's."""
    ours, theirs = server.trace_headers, client.trace_headers
    return ours is not None and theirs is not None and ours.traceparent != theirs.traceparent
