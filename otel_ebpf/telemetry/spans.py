"""Exchanges to spans.

In:   Exchange, where its span belongs, the clock offset, the route
Out:  SpanData
Owns: bounded caches of what spans share, which change nothing but the speed

A span is split into what it shares with many others and the rest: its `series` (name, kind and most attributes), what names
its peer, what names its user agent. The encoder encodes each of these once. Attribute values are ints, or bytes that hold
valid UTF-8: they come from the wire and go back to it.

What is built was kept by the sampler, so it has the sampled flag, whatever its parent has.

Sizes (`http.request.body.size`, `http.response.body.size`) are opt-in in the conventions; they are given whenever
known, since byte counts are what one expects of an agent that watches sockets.
"""

from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role
from otel_ebpf.telemetry.attributes import (
    AF_UNIX,
    KNOWN_METHODS,
    OTHER_METHOD,
    SECRET_KEYS,
    address_text,
    error_type,
    first_forwarded,
    redact_query,
    split_authority,
    split_target,
    without_credentials,
)
from otel_ebpf.telemetry.clock import unix_ns
from otel_ebpf.telemetry.headers import HeaderRules, Headers
from otel_ebpf.telemetry.lookups import SpanEvent, lookup_event
from otel_ebpf.telemetry.places import SpanPlace
from otel_ebpf.telemetry.text import cut_characters, exceeds, utf8
from otel_ebpf.telemetry.trace_context import FLAG_SAMPLED, validate_tracestate

Value = bytes | int | tuple[bytes, ...]
Attributes = tuple[tuple[str, Value], ...]

URL_LIMIT_BYTES = 8192
HEADER_LIMIT_BYTES = 1024
METHOD_LIMIT_BYTES = 64
AUTHORITY_LIMIT_BYTES = 512
UTF8_GROWTH = 3  # a wrong byte becomes the three of U+FFFD, a secret of five bytes the thirteen of a redacted one
TRUNCATED = "otel_ebpf.truncated"  # names of the attributes that hold the beginning of what was sent, with commas
DEFAULT_COUNT_LIMIT = 128  # OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT
MOST_ATTRIBUTES = 30  # that are ever given to one span, evidence included, without captured headers
CACHE_LIMIT = 4096  # hosts, methods and user agents are the sender's choice
CACHED_AGENT_BYTES = 256
_SERVER, _COMPLETE = Role.SERVER, Outcome.COMPLETE  # looking into an enum takes a while
_new_tuple = tuple.__new__


class Shared:
    """Attributes that many spans have in common. Compared by identity: the builder gives equal spans the same ones."""

    __slots__ = ("attributes",)

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes


class Series(Shared):
    """What else they have in common."""

    __slots__ = ("dropped_attributes_count", "is_error", "kind", "name")

    def __init__(
        self, name: bytes, kind: int, is_error: bool, attributes: Attributes, dropped_attributes_count: int = 0
    ) -> None:
        super().__init__(attributes)
        self.name = name
        self.kind = kind
        self.is_error = is_error
        self.dropped_attributes_count = dropped_attributes_count


class Peer(NamedTuple):
    """Of all spans with the same remote address; it has no text where the family has none."""

    text: bytes | None
    as_client: Shared | None  # of a server whose request was not forwarded
    as_peer: Shared | None


class SpanData(NamedTuple):
    """One span, ready to be encoded."""

    series: Series
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes  # b"" for a root
    trace_state: bytes
    flags: int
    start_unix_ns: int
    end_unix_ns: int
    attributes: Attributes  # those that are not shared
    dropped_attributes_count: int  # in all, those of the series too
    evidence: Attributes = ()  # also where it is not among the attributes
    shared: tuple[Shared, ...] = ()  # besides the series
    events: tuple[SpanEvent, ...] = ()

    @property
    def all_attributes(self) -> Attributes:
        shared = tuple(attribute for part in (self.series, *self.shared) for attribute in part.attributes)
        return shared + self.attributes


class SpanBuilder:
    """Makes spans of exchanges; the limits are those of the OTEL_[SPAN_]ATTRIBUTE_* settings."""

    def __init__(
        self,
        value_length_limit: int | None = None,
        count_limit: int = DEFAULT_COUNT_LIMIT,
        known_methods: frozenset[bytes] = KNOWN_METHODS,
        shows_evidence: bool = False,
        header_rules: HeaderRules | None = None,
        secret_keys: frozenset[bytes] = SECRET_KEYS,
    ) -> None:
        self.shows_evidence = shows_evidence
        self._headers = Headers(header_rules or HeaderRules(), secret_keys)
        self._secret_keys = secret_keys
        self._value_length_limit = value_length_limit
        self._count_limit = count_limit
        self._is_limited = (
            value_length_limit is not None or count_limit < MOST_ATTRIBUTES + self._headers.most_attributes
        )
        self._known_methods = known_methods
        self._series: dict[tuple[object, ...], tuple[Series, bytes]] = {}
        self._peers: dict[tuple[int, bytes], Peer] = {}
        self._agents: dict[bytes, Shared] = {}

    def build(
        self,
        exchange: Exchange,
        place: SpanPlace,
        offset_ns: int,
        route: bytes | None = None,
        evidence: Attributes = (),
    ) -> SpanData:
        """The span of one exchange; `offset_ns` is the wall clock minus the kernel's, `route` as in routes.py."""
        target = exchange.target
        is_server = exchange.role is _SERVER
        path: bytes | None
        query: bytes | None
        if target[:1] == b"/":
            path, query = target, None
            if b"?" in target:
                path, _, query = target.partition(b"?")
                query = redact_query(query, self._secret_keys)
            scheme, authority = exchange.scheme, exchange.host
        else:
            scheme, in_target, path, query = split_target(exchange.method, target, exchange.scheme)
            query = redact_query(query, self._secret_keys) if query is not None else None
            authority = exchange.host if in_target is None else in_target

        family = exchange.family
        peer_key = (family, exchange.remote_address)
        peer = self._peers.get(peer_key) or self._remember_peer(peer_key)
        if not authority and not is_server and peer.text is not None:
            authority = b"%b:%d" % (b"[%b]" % peer.text if b":" in peer.text else peer.text, exchange.remote_port)

        outcome = exchange.outcome
        series_key = (
            is_server,
            exchange.method,
            exchange.status,
            authority,
            None if outcome is _COMPLETE else outcome._value_,
            exchange.version,
            family,
            scheme,
            route,
            exchange.asked_name,
        )
        found = self._series.get(series_key)
        if found is None:
            found = self._make_series(series_key, exchange, authority, scheme, route)
        series, origin = found

        shared: list[Shared] = []
        attributes: list[tuple[str, Value]] = []
        full: bytes | None = None
        user_agent = exchange.user_agent
        if is_server:
            if path is not None:
                attributes.append(("url.path", utf8(path, URL_LIMIT_BYTES)))
            if query is not None:
                attributes.append(("url.query", utf8(query, URL_LIMIT_BYTES)))
            client = first_forwarded(exchange.forwarded_for) if exchange.forwarded_for else None
            if client is not None:
                attributes.append(("client.address", utf8(client, HEADER_LIMIT_BYTES)))
            of_peer = peer.as_client if client is None else peer.as_peer
            if user_agent is not None:
                shared.append(self._agents.get(user_agent) or self._remember_agent(user_agent))
        else:
            of_peer = peer.as_peer
            if origin:
                full = origin + (path or b"") if path != b"*" else origin
                if query is not None:
                    full += b"?" + query
                attributes.append(("url.full", utf8(full, URL_LIMIT_BYTES)))
        if of_peer is not None:
            shared.append(of_peer)
            attributes.append(("network.peer.port", exchange.remote_port))
        if exchange.request_body_bytes is not None:
            attributes.append(("http.request.body.size", exchange.request_body_bytes))
        if exchange.response_body_bytes is not None:
            attributes.append(("http.response.body.size", exchange.response_body_bytes))
        truncated: tuple[bytes, ...] = ()
        if self._headers.most_attributes:
            captured, truncated = self._headers.of(exchange)
            attributes += captured
        if (
            truncated
            or exchange.request_bytes > URL_LIMIT_BYTES // UTF8_GROWTH
            or not exchange.version
            or (user_agent is not None and len(user_agent) > HEADER_LIMIT_BYTES // UTF8_GROWTH)
        ):
            names = _truncated(exchange, path, query, full) + truncated
            if names:
                attributes.append((TRUNCATED, b",".join(names)))
        if evidence and self.shows_evidence:
            attributes += evidence
        dropped = 0
        if self._is_limited:
            attributes[:0] = [attribute for part in shared for attribute in part.attributes]
            shared.clear()
            dropped = self._apply_limits(series, attributes)

        trace_id, span_id, parent_span_id, flags, tracestate = place
        start_ns = unix_ns(exchange.request_start_ns, offset_ns)
        end_ns = unix_ns(exchange.end_ns if outcome is _COMPLETE else exchange.last_ns, offset_ns)
        return _new_tuple(
            SpanData,
            (
                series,
                trace_id,
                span_id,
                parent_span_id,
                (validate_tracestate(tracestate) or b"") if tracestate else b"",
                flags | FLAG_SAMPLED,
                start_ns,
                end_ns if end_ns > start_ns else start_ns,
                tuple(attributes),
                dropped,
                evidence,
                tuple(shared),
                () if exchange.lookup is None else self._events(exchange, offset_ns),
            ),
        )

    def _events(self, exchange: Exchange, offset_ns: int) -> tuple[SpanEvent, ...]:
        event = lookup_event(exchange, offset_ns)
        if event is None:
            return ()
        limit = self._value_length_limit
        if limit is not None:
            cut = tuple(
                (key, value if isinstance(value, float) else _cut(value, limit)) for key, value in event.attributes
            )
            event = event._replace(attributes=cut)
        return (event,)

    def _remember_peer(self, key: tuple[int, bytes]) -> Peer:
        if len(self._peers) >= CACHE_LIMIT:
            self._peers.clear()
        text = address_text(*key)
        found = Peer(None, None, None)
        if text is not None:
            address = ("network.peer.address", text)
            found = Peer(text, Shared((("client.address", text), address)), Shared((address,)))
        self._peers[key] = found
        return found

    def _remember_agent(self, user_agent: bytes) -> Shared:
        found = Shared((("user_agent.original", utf8(user_agent, HEADER_LIMIT_BYTES)),))
        if len(user_agent) <= CACHED_AGENT_BYTES:  # longer ones are not kept
            if len(self._agents) >= CACHE_LIMIT:
                self._agents.clear()
            self._agents[user_agent] = found
        return found

    def _make_series(
        self,
        key: tuple[object, ...],
        exchange: Exchange,
        authority: bytes | None,
        scheme: bytes,
        route: bytes | None,
    ) -> tuple[Series, bytes]:
        """The series, and the origin that URLs of a client begin with."""
        if len(self._series) >= CACHE_LIMIT:
            self._series.clear()
        is_known = exchange.method in self._known_methods
        attributes: list[tuple[str, Value]] = [
            ("http.request.method", exchange.method if is_known else OTHER_METHOD),
        ]
        if not is_known:
            attributes.append(("http.request.method_original", utf8(exchange.method, METHOD_LIMIT_BYTES)))
        name = exchange.method if is_known else b"HTTP"
        if route is not None:
            route = utf8(route, URL_LIMIT_BYTES)
            name += b" " + route
            attributes.append(("http.route", route))
        attributes.append(("url.scheme", scheme))
        origin = b""
        if authority:
            server = split_authority(authority, scheme)
            if server is not None:
                host = exchange.asked_name or utf8(server[0], AUTHORITY_LIMIT_BYTES)
                attributes.append(("server.address", host))
                attributes.append(("server.port", server[1]))
                origin = scheme + b"://" + without_credentials(authority)
        if exchange.status is not None:
            attributes.append(("http.response.status_code", exchange.status))
        error = error_type(exchange.role, exchange.status, exchange.outcome)
        if error is not None:
            attributes.append(("error.type", error))
        if exchange.version:
            attributes.append(("network.protocol.version", utf8(exchange.version, METHOD_LIMIT_BYTES)))
        if exchange.family == AF_UNIX:
            attributes.append(("network.transport", b"unix"))
        series = Series(
            name=name,
            kind=int(exchange.role),
            is_error=error is not None,
            attributes=tuple(self._cut_values(attributes)[: self._count_limit]),
            dropped_attributes_count=max(0, len(attributes) - self._count_limit),
        )
        if len(authority or b"") <= AUTHORITY_LIMIT_BYTES:  # a longer one is not kept: any client can send thousands
            self._series[key] = series, origin
        return series, origin

    def _cut_values(self, attributes: list[tuple[str, Value]]) -> list[tuple[str, Value]]:
        limit = self._value_length_limit
        if limit is None:
            return attributes
        return [(key, _cut(value, limit)) for key, value in attributes]

    def _apply_limits(self, series: Series, attributes: list[tuple[str, Value]]) -> int:
        """Cuts `attributes` to the limits, returns how many were dropped; those of the series come first."""
        attributes[:] = self._cut_values(attributes)
        room = max(0, self._count_limit - len(series.attributes))
        dropped = max(0, len(attributes) - room)
        del attributes[room:]
        return dropped + series.dropped_attributes_count


def _cut(value: Value, limit: int) -> Value:
    if isinstance(value, tuple):
        return tuple(cut_characters(text, limit) for text in value)
    return cut_characters(value, limit) if isinstance(value, bytes) else value


def _truncated(exchange: Exchange, path: bytes | None, query: bytes | None, full: bytes | None) -> tuple[bytes, ...]:
    is_target_cut = not exchange.version  # the version stands behind it
    if exchange.role is Role.CLIENT:
        cut = [] if full is None else [(b"url.full", is_target_cut or exceeds(full, URL_LIMIT_BYTES))]
    else:
        path_is_cut = exceeds(path or b"", URL_LIMIT_BYTES) or (is_target_cut and query is None)
        query_is_cut = exceeds(query or b"", URL_LIMIT_BYTES) or (is_target_cut and query is not None)
        agent_is_cut = exceeds(exchange.user_agent or b"", HEADER_LIMIT_BYTES)
        cut = [(b"url.path", path_is_cut), (b"url.query", query_is_cut), (b"user_agent.original", agent_is_cut)]
    return tuple(name for name, is_cut in cut if is_cut)
