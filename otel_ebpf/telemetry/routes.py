"""`http.route` of what a service serves.

In:   path and status of each exchange, in the order in which they end; patterns of the user
Out:  the route, or None where none is known
Owns: what has been learnt of each service: at most MAX_ROUTES routes, MAX_NAMES names at each place of a path

First come the user's patterns. What they leave is told by a heuristic, which knows nothing of the service's own routes:
- A segment that looks like data becomes a placeholder (route_segments.py).
- The others are names. They are learnt from answers that show that the service has something there, which are 2xx and
  304: a path that was never answered so has no route, and adds nothing, however many a scanner tries.
- What has been learnt stays, so a path has the same route for as long as the agent runs. Where MAX_NAMES names stand
  beside each other, further ones are `*`; behind MAX_ROUTES routes, new ones are not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.telemetry.attributes import split_target
from otel_ebpf.telemetry.route_patterns import RoutePattern, RoutePatterns
from otel_ebpf.telemetry.route_segments import ANY, ID, PLACEHOLDERS, REST, generic, is_version_number

MAX_ROUTES = 256  # of one service
MAX_NAMES = 32  # at one place
MAX_SEGMENTS = 12  # what stands behind them is `**`
MAX_TABLES = 256  # services
CACHED_PATHS = 4096  # of one service, in each of two generations
CACHED_PATH_BYTES = 128
_SERVER = Role.SERVER  # looking into an enum takes a while
_BEFORE_VERSIONS = frozenset((b"api", b"rest", b"version"))

EVERYTHING = b"/**"


@dataclass(frozen=True, slots=True)
class RouteRules:
    patterns: tuple[RoutePattern, ...] = ()
    unmatched: str = "heuristic"  # or "wildcard", or "unset"; the words of OBI


class Routes:
    """The tables of all services, by name: what was learnt of one outlives its restarts."""

    def __init__(self, rules: RouteRules) -> None:
        self._rules = rules
        self._tables: dict[str, RouteTable] = {}

    def of_service(self, name: str) -> "RouteTable":
        table = self._tables.pop(name, None)
        if table is None:
            if len(self._tables) >= MAX_TABLES:
                del self._tables[next(iter(self._tables))]
            table = RouteTable(RoutePatterns(self._rules.patterns, name), self._rules.unmatched)
        self._tables[name] = table
        return table


class Place:
    """Where a path has come to: what may follow there."""

    __slots__ = ("name_count", "places", "route")

    def __init__(self) -> None:
        self.places: dict[bytes, Place] = {}
        self.name_count = 0
        self.route: bytes | None = None  # of the path that ends here, once it is known


class RouteTable:
    """Of one service."""

    def __init__(self, patterns: RoutePatterns, unmatched: str = "heuristic") -> None:
        self.route_count = 0
        self.refused_count = 0  # routes that would have been one too many
        self._patterns = patterns
        self._unmatched = unmatched
        self._root = Place()
        # Two generations make a cache that forgets what has not been asked for lately. A route once given stays, so
        # nothing in it is ever wrong.
        self._recent: dict[bytes, bytes] = {}
        self._older: dict[bytes, bytes] = {}

    def route_of(self, exchange: Exchange) -> bytes | None:
        """Of a request that was served: what a client calls is not the client's route."""
        if exchange.role is not _SERVER:
            return None
        target = exchange.target
        path = target.partition(b"?")[0] if b"?" in target else target
        route = self._recent.get(path)
        if route is not None:
            return route
        if path[:1] != b"/":
            in_target = split_target(exchange.method, target).path
            if in_target is None or in_target[:1] != b"/":
                return None
            path = in_target
        # What answers a preflight answers it on any path.
        return self.find(path, None if exchange.method == b"OPTIONS" else exchange.status)

    def has_guessed(self, route: bytes) -> bool:
        """A route that was given is the heuristic's, unless the settings say it."""
        return self._unmatched == "heuristic" and route not in self._patterns

    def find(self, path: bytes, status: int | None) -> bytes | None:
        route = self._recent.get(path)
        return route if route is not None else self._find_older(path, status)

    def _find_older(self, path: bytes, status: int | None) -> bytes | None:
        route = self._older.get(path)
        if route is None:
            route = self._look_up(path, status)
        if route is not None and len(path) <= CACHED_PATH_BYTES:
            if len(self._recent) >= CACHED_PATHS:
                self._older, self._recent = self._recent, {}
            self._recent[path] = route
        return route

    def _look_up(self, path: bytes, status: int | None) -> bytes | None:
        route = self._patterns.match(path)
        if route is not None:
            return route
        if self._unmatched == "heuristic":
            return self._learn(path) if _is_answer(status) else self._recall(path)
        return EVERYTHING if self._unmatched == "wildcard" else None

    def _recall(self, path: bytes) -> bytes | None:
        place = self._root
        for segment in segments_of(path):
            found = place.places.get(segment)
            if found is None and segment not in PLACEHOLDERS and place.name_count >= MAX_NAMES:
                found = place.places.get(ANY)
            if found is None:
                return None
            place = found
        return place.route

    def _learn(self, path: bytes) -> bytes | None:
        """As _recall, but what is missing is added."""
        if self.route_count >= MAX_ROUTES:
            route = self._recall(path)
            self.refused_count += route is None
            return route
        place, names = self._root, []
        for segment in segments_of(path):
            name = segment
            found = place.places.get(name)
            if found is None and name not in PLACEHOLDERS:
                if place.name_count >= MAX_NAMES:
                    name = ANY
                    found = place.places.get(name)
                else:
                    place.name_count += 1
            if found is None:
                found = place.places[name] = Place()
            place = found
            names.append(name)
        if place.route is None:
            place.route = b"/" + b"/".join(names)
            self.route_count += 1
        return place.route


def segments_of(path: bytes) -> Sequence[bytes]:
    """What a route says in the place of each segment, before anything is known of the service."""
    segments = path[1:].split(b"/", MAX_SEGMENTS)
    found = [ID if segment.isdigit() else generic(segment) for segment in segments]  # most data are numbers
    if len(segments) > MAX_SEGMENTS:
        found[MAX_SEGMENTS] = REST
    for index, segment in enumerate(segments[:-1]):
        if len(segment) <= 4 and is_version_number(segment) and _may_be_version(segments, index):
            found[index] = segment
    return found


def _may_be_version(segments: Sequence[bytes], index: int) -> bool:
    return index == 0 or segments[index - 1] in _BEFORE_VERSIONS


def _is_answer(status: int | None) -> bool:
    """That the service has something there; a redirect or a refusal is what it says to any path."""
    return status is not None and (200 <= status < 300 or status == 304)
