"""Routes of any paths: what was once given stays, and few are ever known."""

from otel_ebpf.telemetry.route_patterns import RoutePatterns
from otel_ebpf.telemetry.route_segments import generic
from otel_ebpf.telemetry.routes import MAX_NAMES, MAX_ROUTES, Place, RouteTable
from tests.fuzz.choices import Choices

_PATTERNS = tuple(("", pattern) for pattern in ("/users/{id}", "/a*b/:name/**", "/files/{name}.json", "/**/end"))


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    table = RouteTable(RoutePatterns(_PATTERNS if choices.number() & 1 else (), "service"))
    given: dict[bytes, bytes] = {}
    while choices.are_left:
        status = choices.one_of([200, 304, 404, None])
        path = b"/" + b"/".join(choices.some_bytes() for _ in range(choices.number() % 16))
        route = table.find(path, status)
        for segment in map(generic, path.split(b"/")):
            assert segment == generic(segment), "its own answers it gives back"
        assert given.get(path) in (None, route), "a path has one route for ever"
        if route is not None:
            given[path] = route
    for path, route in given.items():
        assert route == table.find(path, None)
    assert table.route_count <= MAX_ROUTES
    assert _most_names(table._root) <= MAX_NAMES


def _most_names(place: Place) -> int:
    return max(place.name_count, *map(_most_names, place.places.values()), 0)
