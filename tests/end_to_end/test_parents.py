"""Each outgoing call of a real service is the child of the request that caused it, by the ids in both paths."""

import os

import pytest

from tests.end_to_end.sink import CLIENT, SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, target_of
from tests.services.calling import STYLES, calling_service

pytestmark = pytest.mark.end_to_end

REQUESTS = int(os.environ.get("OTEL_EBPF_TEST_REQUESTS", "50"))  # of each kind
AT_ONCE = 40
WARM_UP = 20  # what is loaded with the first requests has been looked at then


def parents_of(spans: list[Span]) -> dict[str, str | None]:
    """Of each client's span, by their targets; "?" for one that is not there."""
    servers = {span.span_id: target_of(span) for span in spans if span.kind == SERVER}
    return {
        target_of(span): servers.get(span.parent_span_id, "?") if span.parent_span_id else None
        for span in spans
        if span.kind == CLIENT
    }


@pytest.mark.parametrize("style", STYLES)
def test_every_call_is_the_child_of_the_request_that_caused_it(style: str, prefix: str, stage: Stage) -> None:
    """Many at once, with pauses of random lengths, on connections that stay open; and calls that nobody caused."""
    service = stage.ends.enter_context(calling_service(style, stage.new_folder(style)))
    stage.agent(OTEL_EBPF_OPEN_PORT=service.port)
    warm = service.ask(f"warm-{prefix}", WARM_UP, AT_ONCE)
    warm_kinds = WARM_UP * len(service.kinds)
    # What the first ones call by TLS may begin before their library is attached to.
    stage.sink.wait_for(len(warm) + warm_kinds, belongs_to(f"warm-{prefix}"), seconds=5)

    caused = service.ask(f"hot-{prefix}", REQUESTS, AT_ONCE)

    spans = stage.sink.wait_for(len(caused) + REQUESTS * len(service.kinds), belongs_to(f"hot-{prefix}"))
    found = parents_of(spans)
    assert {} == {path: (found.get(path), parent) for path, parent in caused.items() if found.get(path) != parent}
    noise = stage.sink.wait_for(1, belongs_to("/noise/", CLIENT))
    assert {None} == set(parents_of(noise).values())
