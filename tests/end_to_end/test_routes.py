"""Routes and names as they come out at a collector."""

from collections import Counter

import pytest

from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import target_of
from tests.services.plan import Call, make_call

PATHS = ["/shop/items/{}/size/1/framing/length", "/shop/items/{}/size/1/reviews/{}"]


def calls_to(path: str, count: int, status: int = 200) -> list[Call]:
    """As answers.py reads a target: /ID/key/value, so what stands first is the id of the call."""
    return [Call(f"c{n}", "GET", path.format(n, n + 1), status=status, response_body_bytes=1) for n in range(count)]


@pytest.mark.parametrize("name", ["go", "gunicorn-gthread"])
def test_ids_in_paths_make_no_names(name: str, stage: Stage) -> None:
    """Two hundred paths, two routes; 404 on a known route has it, on an unknown path none."""
    server = stage.server(name)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    calls = [call for path in PATHS for call in calls_to(path, 100)]
    calls += [make_call("unknown", "GET", 404, 9), make_call("unknown", "POST", 500, 9)]

    stage.client("http.client", server, calls).send()

    spans = stage.sink.wait_for(202, lambda span: span.kind == SERVER)
    assert {
        "GET /shop/items/{id}/size/{id}/framing/length": 100,
        "GET /shop/items/{id}/size/{id}/reviews/{id}": 100,
        "GET": 1,
        "POST": 1,
    } == Counter(span.name for span in spans)
    assert [] == [
        target_of(span)
        for span in spans
        if span.name != f"GET {span.attributes.get('http.route')}" and " " in span.name
    ]


def test_configured_routes_are_those_of_their_service(stage: Stage) -> None:
    server = stage.server("go", OTEL_SERVICE_NAME="shop")
    routes = "bank:/shop/**,shop:/shop/items/{item}/size/*/framing/length,/**/reviews/{review}"
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_ROUTES=routes, OTEL_EBPF_ROUTES_UNMATCHED="unset")
    calls = [call for path in PATHS for call in calls_to(path, 1)] + [make_call("none", "GET")]

    stage.client("http.client", server, calls).send()

    spans = stage.sink.wait_for(3, lambda span: span.kind == SERVER)
    assert {
        "GET /shop/items/{item}/size/*/framing/length",
        "GET /**/reviews/{review}",
        "GET",
    } == {span.name for span in spans}
    assert None is next(span for span in spans if span.name == "GET").attributes.get("http.route")


def test_a_call_is_named_by_its_method(stage: Stage) -> None:
    server = stage.server("go")
    client = stage.client("http.client", server, calls_to(PATHS[0], 3))
    stage.agent(OTEL_EBPF_TARGET_PID=client.pid)

    client.send()

    spans = stage.sink.wait_for(3, lambda span: span.kind == CLIENT)
    assert [("GET", None)] * 3 == [(span.name, span.attributes.get("http.route")) for span in spans]
