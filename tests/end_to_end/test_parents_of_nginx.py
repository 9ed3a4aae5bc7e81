"""Each request that nginx hands on is the child of the one that it came for, by the ids in both paths."""

import os

import pytest

from tests.end_to_end.sink import CLIENT, SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, target_of
from tests.services.proxied import proxied

pytestmark = pytest.mark.end_to_end

REQUESTS = int(os.environ.get("OTEL_EBPF_TEST_REQUESTS", "15"))  # of each way
AT_ONCE = 40
BY_HTTP2 = 10


def wrong(spans: list[Span], caused: dict[str, str]) -> dict[str, object]:
    """Calls with another parent than they should have, and those that were not seen. A second attempt is a second span."""
    servers = {span.span_id: target_of(span) for span in spans if span.kind == SERVER}
    calls = [span for span in spans if span.kind == CLIENT]
    found = {
        target_of(span): servers.get(span.parent_span_id, "?")
        for span in calls
        if servers.get(span.parent_span_id) != caused.get(target_of(span))
    }
    return found | dict.fromkeys(caused.keys() - {target_of(span) for span in calls}, "not seen")


def test_every_request_that_is_handed_on_is_the_child_of_the_one_that_it_came_for(prefix: str, stage: Stage) -> None:
    """In all ways that nginx has, many at once; of HTTP/2, where many share a connection, none is said to be any's."""
    plain, by_tls = stage.server("aiohttp"), stage.server("aiohttp-tls")
    proxy = stage.ends.enter_context(proxied(stage.new_folder("nginx"), plain, by_tls))
    stage.agent(OTEL_EBPF_OPEN_PORT=",".join(map(str, proxy.ports.values())))

    caused = proxy.ask(prefix, REQUESTS, AT_ONCE)
    asked = set(caused.values())
    by_nobody = proxy.ask_by_http2(prefix, BY_HTTP2)

    tried_in_vain = len(proxy.hung_up)
    assert tried_in_vain
    count = len(asked) + len(caused) + tried_in_vain + len(by_nobody)
    spans = stage.sink.wait_for(count, belongs_to(prefix))
    assert count == len(spans)
    by_itself = [span for span in spans if target_of(span) in by_nobody]
    assert {} == wrong([span for span in spans if span not in by_itself], caused)
    assert [(CLIENT, b"")] * BY_HTTP2 == [(span.kind, span.parent_span_id) for span in by_itself]
