"""http.route: the user's patterns, and what is learnt from answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.setting_values import parse_routes
from otel_ebpf.telemetry.route_patterns import RoutePatterns
from otel_ebpf.telemetry.routes import (
    CACHED_PATH_BYTES,
    CACHED_PATHS,
    MAX_NAMES,
    MAX_ROUTES,
    MAX_SEGMENTS,
    MAX_TABLES,
    RouteRules,
    Routes,
    RouteTable,
)
from tests.unit.telemetry.examples import client_exchange, exchange


def table(patterns: str = "", unmatched: str = "heuristic", service: str = "shop") -> RouteTable:
    return Routes(RouteRules(parse_routes(patterns), unmatched)).of_service(service)


# What services answer with 200, and the route of it.
PATHS = {
    "/": "/",
    "/users": "/users",
    "/users/": "/users/",
    "/users/17": "/users/{id}",
    "/users/17/orders/5/items": "/users/{id}/orders/{id}/items",
    "/users/me": "/users/me",
    "/users/ann@shop.example": "/users/{email}",
    "/api/v2/items/0190163d-8694-739b-aea5-966c26f8ad91": "/api/v2/items/{id}",
    "/rest/api/2/issue/PROJ-123/comment/10001": "/rest/api/2/issue/{id}/comment/{id}",
    "/1.1/statuses/show/20.json": "/1.1/statuses/show/{id}.json",
    "/2/tweets/1460323737035677698": "/2/tweets/{id}",
    "/17": "/{id}",
    "/repos/octocat/hello-world/commits/7fd1a60b01f91b314f59955a4e4d4e80d8edf11d": "/repos/octocat/hello-world/commits/{id}",
    "/v1/charges/ch_1IabcD2eZvKYlo2C/refund": "/v1/charges/ch_{id}/refund",
    "/api/v1/namespaces/default/pods/web-5d4f8c7b9-x2x7z/log": "/api/v1/namespaces/default/pods/web-{id}-x2x7z/log",
    "/reports/2024-11-21/summary": "/reports/{date}/summary",
    "/blog/2024/11/21/hello": "/blog/{id}/{id}/{id}/hello",
    "/static/js/app.3f2a9c1b.js": "/static/js/app.{id}.js",
    "/v1/projects/shop/operations/123:cancel": "/v1/projects/shop/operations/{id}:cancel",
    "/geo/52.5163,13.3777": "/geo/{id}",
    "/search/two%20words": "/search/{id}",
    "/twirp/example.Haberdasher/MakeHat": "/twirp/example.Haberdasher/MakeHat",
    "/wp-content/uploads/2024/11/IMG_20241121.jpg": "/wp-content/uploads/{id}/{id}/IMG_{id}.jpg",
    "/_search/scroll/DXF1ZXJ5QW5kRmV0Y2gBAAAAAAAAAD4WYm9laVYtZndUQlNsdDcwakFMNjU1QQ==": "/_search/scroll/{id}",
    "/account;jsessionid=AF1234/orders": "/account/orders",
    "//double": "//double",
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_the_heuristic_keeps_names_and_hides_data(path: str):
    assert PATHS[path].encode() == table().find(path.encode(), 200)


def test_a_deep_path_ends_in_two_stars():
    assert b"/a" * MAX_SEGMENTS + b"/**" == table().find(b"/a" * 500, 200)


# --- What is learnt ---


@pytest.mark.parametrize("status", [None, 301, 302, 400, 401, 403, 404, 405, 429, 500, 501, 502])
def test_a_path_that_was_never_answered_has_no_route_and_adds_nothing(status: int | None):
    """Any path is answered so, by a scanner's hundred thousand of them too."""
    routes = table()
    assert [None] * 100 == [routes.find(b"/wp-admin/x%d" % number, status) for number in range(100)]
    assert 0 == routes.route_count
    assert not routes._root.places


@pytest.mark.parametrize("status", [200, 201, 204, 206, 304])
def test_a_known_route_is_that_of_its_errors_too(status: int):
    routes = table()
    assert b"/orders/{id}" == routes.find(b"/orders/1", status)
    assert [b"/orders/{id}"] * 3 == [routes.find(b"/orders/2", error) for error in (404, 500, None)]
    assert None is routes.find(b"/orders", 404)


def test_a_preflight_teaches_nothing():
    """A middleware answers OPTIONS on any path."""
    routes = table()
    assert None is routes.route_of(exchange(method=b"OPTIONS", status=204, target=b"/any"))
    assert b"/any" == routes.route_of(exchange(method=b"GET", target=b"/any?x=1"))
    assert b"/any" == routes.route_of(exchange(method=b"OPTIONS", status=204, target=b"/any"))


def test_names_beside_each_other_are_bounded_and_the_first_stay():
    routes = table()
    learnt = [routes.find(b"/u/" + name(number), 200) for number in range(MAX_NAMES)]

    assert [b"/u/" + name(number) for number in range(MAX_NAMES)] == learnt
    assert b"/u/*" == routes.find(b"/u/one-too-many", 200)
    assert b"/u/*/posts" == routes.find(b"/u/one-too-many/posts", 200)
    assert b"/u/*" == routes.find(b"/u/never-seen", 404)
    assert learnt == [routes.find(b"/u/" + name(number), 200) for number in range(MAX_NAMES)]
    assert b"/u/{id}" == routes.find(b"/u/17", 200), "data is told apart from names still"


def test_routes_of_a_service_are_bounded_and_what_does_not_fit_is_counted():
    routes = table()
    for first in range(MAX_NAMES):
        for second in range(MAX_NAMES):
            routes.find(b"/" + name(first) + b"/" + name(second), 200)

    assert MAX_ROUTES == routes.route_count
    assert MAX_NAMES**2 - MAX_ROUTES == routes.refused_count
    assert b"/a/a" == routes.find(b"/a/a", 200)
    assert None is routes.find(b"/new", 200)


def name(number: int) -> bytes:
    """a, b, … z, aa, ab, …"""
    return (name(number // 26 - 1) if number >= 26 else b"") + bytes((97 + number % 26,))


def test_a_call_has_no_route():
    """http.route is the server's; url.template, which would be the client's, is not known."""
    assert None is table().route_of(client_exchange())


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"GET", b"http://shop.example/items/7?x", b"/items/{id}"),
        (b"OPTIONS", b"*", None),
        (b"CONNECT", b"far.example:443", None),
        (b"GET", b"items", None),
    ],
)
def test_every_form_of_target_has_a_route_where_it_has_a_path(method: bytes, target: bytes, expected: bytes | None):
    """RFC 9112 section 3.2."""
    assert expected == table().route_of(exchange(method=method, target=target))


def test_services_have_tables_of_their_own_that_outlive_a_restart():
    routes = Routes(RouteRules())
    routes.of_service("shop").find(b"/items", 200)

    assert b"/items" == routes.of_service("shop").find(b"/items", 404)
    assert None is routes.of_service("bank").find(b"/items", 404)
    for number in range(MAX_TABLES):
        routes.of_service(str(number))
    assert MAX_TABLES == len(routes._tables)
    assert None is routes.of_service("shop").find(b"/items", 404), "the one that was asked for the longest ago"


# --- Patterns ---

PATTERNS = "/users/{id},/users/*/posts/:post,/files/**,/x/**/end,/{page}.html,/img-*.png,shop:/cart/{cart},bank:/**"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/users/17", "/users/{id}"),
        ("/users/me", "/users/{id}"),
        ("/users/", None),
        ("/users/17/posts/a", "/users/*/posts/:post"),
        ("/users/17/posts/a/b", None),
        ("/files", "/files/**"),
        ("/files/a/b/c", "/files/**"),
        ("/filesystem", None),
        ("/x/end", "/x/**/end"),
        ("/x/1/2/end", "/x/**/end"),
        ("/about.html", "/{page}.html"),
        ("/.html", None),
        ("/img-1.png", "/img-*.png"),
        ("/cart/7", "/cart/{cart}"),
        ("/else", None),
    ],
)
def test_the_first_pattern_that_matches_is_the_route(path: str, expected: str | None):
    """Whatever the status; patterns of another service are not looked at."""
    found = table(PATTERNS, "unset").find(path.encode(), 404)
    assert (expected.encode() if expected else None) == found


def test_patterns_come_before_the_heuristic():
    routes = table("/users/{name}")
    assert (b"/users/{name}", b"/items/{id}") == (routes.find(b"/users/ann", 500), routes.find(b"/items/7", 200))


def test_what_matches_nothing_may_be_two_stars_or_nothing():
    """OBI's `unmatched`: wildcard, unset."""
    assert b"/**" == table("/a", "wildcard").find(b"/b/c", 404)
    assert None is table("/a", "unset").find(b"/b/c", 200)


def test_a_pattern_is_matched_in_linear_time():
    """A wildcard a segment, `**` once: nothing to try over and over. This would not end otherwise."""
    patterns = RoutePatterns(parse_routes(",".join(f"/**/a{number}/*b/{{c}}d" for number in range(20))), "")
    assert None is patterns.match(b"/a" * 4000)


# --- Properties ---

WORDS = st.sampled_from(
    ["api", "users", "me", "v1", "2", "17", "a@b.example", "2024-11-21", "x.js", "{id}", "*", "", "%20"]
)
ANY_PATHS = st.lists(WORDS | st.text("abc019-.", max_size=6), max_size=5).map(
    lambda parts: b"/" + "/".join(parts).encode()
)
ANSWERS = st.lists(st.tuples(ANY_PATHS, st.sampled_from([200, 204, 304, 301, 404, 500, None])), max_size=60)


@given(ANSWERS)
def test_a_route_once_given_stays(answers: list[tuple[bytes, int | None]]):
    routes, given_before = table(), dict[bytes, bytes]()
    for path, status in answers * 2:
        route = routes.find(path, status)
        assert path not in given_before or given_before[path] == route
        if route is not None:
            given_before[path] = route


@given(ANSWERS)
def test_a_route_is_the_route_of_itself(answers: list[tuple[bytes, int | None]]):
    routes = table()
    found = [routes.find(path, status) for path, status in answers]
    known = [route for route in found if route is not None]

    assert known == [routes.find(route, 404) for route in known]


@given(ANSWERS)
def test_the_same_answers_give_the_same_routes(answers: list[tuple[bytes, int | None]]):
    """Nothing but the exchanges and their order: a recording replays."""
    one, other = table(), table()
    assert [one.find(*answer) for answer in answers] == [other.find(*answer) for answer in answers]


@given(st.lists(st.text("abcdefgh/", min_size=1, max_size=9), min_size=1, max_size=300))
def test_no_traffic_makes_more_routes_than_the_bound(paths: list[str]):
    routes = table()
    found = {routes.find(b"/" + path.encode(), 200) for path in paths} - {None}

    assert len(found) == routes.route_count <= MAX_ROUTES


@given(st.sampled_from(["/{a}", "/x/*/y", "/**", "/a.{b}", "/:c"]), st.binary(max_size=40))
def test_any_bytes_match_or_do_not(pattern: str, path: bytes):
    assert table(pattern, "unset").find(b"/" + path, None) in (None, pattern.encode())


def test_the_cache_of_paths_is_bounded_and_changes_nothing():
    routes = table()
    for number in range(3 * CACHED_PATHS):
        assert b"/items/{id}" == routes.find(b"/items/%d" % number, 200)
    assert b"/items/{id}" == routes.find(b"/items/" + b"7" * CACHED_PATH_BYTES, 200)

    assert len(routes._recent) <= CACHED_PATHS
    assert len(routes._older) <= CACHED_PATHS
    assert max(map(len, routes._recent)) <= CACHED_PATH_BYTES
