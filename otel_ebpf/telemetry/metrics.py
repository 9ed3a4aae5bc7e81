"""Measurements of exchanges: every exchange is one, whether its span is kept or not.

In:   exchanges with their service and route; the time
Out:  readings: what has been measured, by service and attributes
Owns: the series, bounded in number

A series is what has the same attributes in one service and one role. It begins when its first exchange ends and is
forgotten when none has come for the TTL; one that comes back after that begins anew, with a new start time. A service
that is started again has another service.instance.id, so another Resource and other series: nothing is counted twice.
What finds no room is measured in one series for each service and role, marked `otel.metric.overflow`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from otel_ebpf.exchanges.exchange import Exchange, OpenRequest, Outcome, Role
from otel_ebpf.telemetry.attributes import (
    KNOWN_METHODS,
    OTHER_METHOD,
    address_text,
    error_type,
    split_authority,
    split_target,
)
from otel_ebpf.telemetry.histograms import ExplicitHistogram, ExponentialHistogram, Histogram
from otel_ebpf.telemetry.resource import AttributeValue
from otel_ebpf.telemetry.text import utf8

NS_PER_SECOND = 1_000_000_000
# The conventions' buckets, 5 ms to 10 s.
DURATION_BOUNDS_NS = tuple(
    ms * 1_000_000 for ms in (5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000)
)
SIZE_BOUNDS_BYTES = (0, *(1 << power for power in range(7, 31, 2)))  # the conventions name none: 128 B to 512 MiB

MAX_SERIES_OF_SERVICE = 2000  # in each role: the specification's default
MAX_SERIES = 20_000  # in all: about 32 MB
MAX_SERVICES = 1000
_MAX_KNOWN = 8192
_SERVER, _COMPLETE = Role.SERVER, Outcome.COMPLETE  # looking into an enum takes a while
_TEXT_LIMIT_BYTES = 512
OVERFLOW: "Attributes" = (("otel.metric.overflow", True),)

Attributes = tuple[tuple[str, str | int | bool], ...]


class MeasuredService(Protocol):
    """Whom an exchange belongs to; `resource` stands for `attributes` and is cheaper to compare."""

    @property
    def resource(self) -> bytes: ...
    @property
    def attributes(self) -> Mapping[str, AttributeValue]: ...


@dataclass(frozen=True, slots=True)
class MeterOptions:
    are_sizes_measured: bool = False
    is_exponential: bool = False
    is_delta: bool = False
    ttl_ns: int = 300 * NS_PER_SECOND
    known_methods: frozenset[bytes] = KNOWN_METHODS


@dataclass(slots=True)
class Series:
    """One set of attributes. Sizes are None when they are not measured."""

    attributes: Attributes
    start_unix_ns: int
    duration: Histogram
    request_size: Histogram | None
    response_size: Histogram | None
    seen_count: int = 0  # at the last look for series that nothing comes to
    touched_unix_ns: int = 0

    def add(self, later: "Series") -> None:
        """All that was measured later, of the same or of other attributes."""
        for mine, other in (
            (self.duration, later.duration),
            (self.request_size, later.request_size),
            (self.response_size, later.response_size),
        ):
            if mine is not None and other is not None:
                mine.add(other)  # type: ignore[arg-type]  # of one meter, so of one kind

    def copy(self) -> "Series":
        return Series(
            self.attributes,
            self.start_unix_ns,
            self.duration.copy(),
            None if self.request_size is None else self.request_size.copy(),
            None if self.response_size is None else self.response_size.copy(),
        )


SeriesByAttributes = dict[Attributes, Series]


@dataclass(slots=True)
class ServiceSeries:
    """Those of one service, by role."""

    attributes: Mapping[str, AttributeValue]
    roles: dict[Role, SeriesByAttributes] = field(default_factory=lambda: {role: {} for role in Role})

    @property
    def count(self) -> int:
        return sum(map(len, self.roles.values()))


class Meter:
    """One aggregation. In delta temporality what has been read is forgotten; else it is kept."""

    def __init__(self, options: MeterOptions = MeterOptions()) -> None:
        self.options = options
        self.evicted = 0  # series of services that had to make room
        self.services: dict[bytes, ServiceSeries] = {}
        self._known: dict[tuple[object, ...], Series] = {}  # what an exchange shows to its series; only for speed
        self._series_count = 0
        self._now_unix_ns = 0
        self._before_unix_ns = 0  # the tick before this one
        self._since_unix_ns = 0  # of deltas: when they were read last, or the first tick

    @property
    def series_count(self) -> int:
        return self._series_count

    def begin_tick(self, now_unix_ns: int) -> None:
        self._before_unix_ns = self._now_unix_ns or now_unix_ns
        self._now_unix_ns = now_unix_ns
        self._since_unix_ns = self._since_unix_ns or now_unix_ns

    def record(
        self,
        service: MeasuredService,
        exchange: Exchange,
        route: bytes | None = None,
        exemplar: tuple[bytes, bytes] | None = None,
    ) -> None:
        """`exemplar`: trace id and span id, of a span that is kept."""
        target, outcome = exchange.target, exchange.outcome
        is_complete = outcome is _COMPLETE
        # By what an exchange says, unparsed. The keys of servers are shorter, so that no two of both roles are equal.
        key: tuple[object, ...] = (
            service.resource,
            exchange.method,
            exchange.status,
            route,
            exchange.version,
            exchange.scheme,
            is_complete or outcome._value_,
            None if target[:1] == b"/" else target.partition(b"?")[0][:_TEXT_LIMIT_BYTES],
        )
        if exchange.role is not _SERVER:
            host = exchange.host
            key += (
                host and host[:_TEXT_LIMIT_BYTES],
                exchange.remote_address,
                exchange.remote_port,
                exchange.asked_name,
            )
        series = self._known.get(key)
        if series is None:
            series = self._find(key, service, exchange, route)
        end_ns = exchange.end_ns if is_complete else exchange.last_ns
        duration_ns = end_ns - exchange.request_start_ns
        series.duration.record(duration_ns if duration_ns > 0 else 0, end_ns, exemplar)
        if series.request_size is not None and exchange.request_body_bytes is not None:
            series.request_size.record(exchange.request_body_bytes)
        if series.response_size is not None and exchange.response_body_bytes is not None:
            series.response_size.record(exchange.response_body_bytes)

    def read(self) -> dict[bytes, ServiceSeries]:
        """All there is, by resource; what comes later does not change it."""
        if self.options.is_delta:
            taken, self.services = self.services, {}
            self._known.clear()
            self._series_count = 0
            self._since_unix_ns = self._now_unix_ns
            return taken
        return {
            resource: ServiceSeries(
                service.attributes,
                {
                    role: {attributes: series.copy() for attributes, series in of_role.items()}
                    for role, of_role in service.roles.items()
                },
            )
            for resource, service in self.services.items()
        }

    def expire(self) -> None:
        """Forgets what nothing has come to for the TTL; to be called now and then."""
        oldest_unix_ns = self._now_unix_ns - self.options.ttl_ns
        for resource, service in list(self.services.items()):
            for of_role in service.roles.values():
                for attributes, series in list(of_role.items()):
                    count = series.duration.count
                    if count != series.seen_count:
                        series.seen_count, series.touched_unix_ns = count, self._now_unix_ns
                    elif series.touched_unix_ns < oldest_unix_ns:
                        del of_role[attributes]
                        self._series_count -= 1
                        self._known.clear()
            if not service.count:
                del self.services[resource]

    def _find(
        self, key: tuple[object, ...], service: MeasuredService, exchange: Exchange, route: bytes | None
    ) -> Series:
        of_service = self.services.get(service.resource)
        if of_service is None:
            if len(self.services) >= MAX_SERVICES:
                self._evict()
            of_service = self.services[service.resource] = ServiceSeries(service.attributes)
        of_role = of_service.roles[exchange.role]
        attributes = self._attributes(exchange, route)
        series = of_role.get(attributes)
        if series is None:
            if len(of_role) >= MAX_SERIES_OF_SERVICE - 1 or self._series_count >= MAX_SERIES:
                attributes = OVERFLOW
            series = of_role.get(attributes)
            if series is None:
                series = of_role[attributes] = self._new_series(attributes)
                self._series_count += 1
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[key] = series
        return series

    def _new_series(self, attributes: Attributes) -> Series:
        is_sized = self.options.are_sizes_measured
        return Series(
            attributes,
            self._since_unix_ns if self.options.is_delta else self._before_unix_ns,
            self._new(DURATION_BOUNDS_NS, NS_PER_SECOND),
            self._new(SIZE_BOUNDS_BYTES, 1) if is_sized else None,
            self._new(SIZE_BOUNDS_BYTES, 1) if is_sized else None,
            touched_unix_ns=self._now_unix_ns,
        )

    def _new(self, bounds: tuple[int, ...], per_unit: int) -> Histogram:
        return ExponentialHistogram(per_unit) if self.options.is_exponential else ExplicitHistogram(bounds)

    def _evict(self) -> None:
        """The service that was quiet for longest gives way."""
        resource = min(self.services, key=lambda resource: _last_touched(self.services[resource]))
        count = self.services.pop(resource).count
        self._series_count -= count
        self.evicted += count
        self._known.clear()

    def _attributes(self, exchange: Exchange, route: bytes | None) -> Attributes:
        request = request_attributes(self.options.known_methods, exchange)
        found: list[tuple[str, str | int]] = [*request]
        if exchange.status is not None:
            found.append(("http.response.status_code", exchange.status))
        if route is not None:
            found.append(("http.route", _text(route)))
        error = error_type(exchange.role, exchange.status, exchange.outcome)
        if error is not None:
            found.append(("error.type", _text(error)))
        if exchange.version:
            found.append(("network.protocol.version", _text(exchange.version)))
        return tuple(found)


def merge(earlier: dict[bytes, ServiceSeries], later: dict[bytes, ServiceSeries]) -> int:
    """Puts deltas that were not delivered together with those that followed; returns how many series found no room.

    `earlier` has all of it then; `later` is used up.
    """
    lost = 0
    room = MAX_SERIES - sum(service.count for service in earlier.values())
    for resource, service in later.items():
        of_service = earlier.get(resource)
        if of_service is None:
            if len(earlier) >= MAX_SERVICES:
                lost += service.count
                continue
            of_service = earlier[resource] = ServiceSeries(service.attributes)
        for role, of_role in service.roles.items():
            known = of_service.roles[role]
            for attributes, series in of_role.items():
                if attributes not in known and (len(known) >= MAX_SERIES_OF_SERVICE - 1 or room <= 0):
                    attributes = OVERFLOW
                if attributes in known:
                    known[attributes].add(series)
                else:
                    series.attributes = attributes
                    known[attributes] = series
                    room -= 1
    return lost


def request_attributes(
    known_methods: frozenset[bytes], request: Exchange | OpenRequest
) -> tuple[tuple[str, str | int], ...]:
    """What is known from the request on. A server's own name is the sender's choice, so it is left out there."""
    method, target = request.method, request.target
    found: list[tuple[str, str | int]] = [
        ("http.request.method", _text(method if method in known_methods else OTHER_METHOD))
    ]
    in_target = None if target[:1] == b"/" else split_target(method, target, request.scheme)
    scheme = request.scheme if in_target is None else in_target.scheme
    if request.role is Role.SERVER:
        return (*found, ("url.scheme", _text(scheme)))
    authority = request.host if in_target is None or in_target.authority is None else in_target.authority
    server = split_authority(authority, scheme) if authority else None
    if server is None:
        peer = address_text(request.family, request.remote_address)
        server = None if peer is None else (peer, request.remote_port)
    if server is not None:
        found += [("server.address", _text(request.asked_name or server[0])), ("server.port", server[1])]
    return tuple(found)


def _last_touched(service: ServiceSeries) -> int:
    return max((series.touched_unix_ns for of_role in service.roles.values() for series in of_role.values()), default=0)


def _text(raw: bytes) -> str:
    return utf8(raw, _TEXT_LIMIT_BYTES).decode("utf-8")
