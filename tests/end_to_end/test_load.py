"""Many requests: none is lost without being counted."""

import time
from pathlib import Path

import pytest

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.sink import SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to
from tests.services.load import run_wrk
from tests.services.plan import make_call
from tests.services.processes import wait_until
from tests.services.servers import counting_nginx

REQUESTS = 50_000
CONNECTIONS = 8


def logged_requests(log: Path) -> int:
    with log.open("rb") as lines:
        return sum(1 for _ in lines)


def wait_until_quiet(stage: Stage, expected: int) -> None:
    """All spans are there, or none has come for a second."""
    last_count, last_change = -1, time.monotonic()

    def is_quiet() -> bool:
        nonlocal last_count, last_change
        if stage.sink.span_count != last_count:
            last_count, last_change = stage.sink.span_count, time.monotonic()
        return last_count >= expected or time.monotonic() - last_change > 1.5

    wait_until(is_quiet, "the spans have come", seconds=60)


@pytest.mark.parametrize("ring", ["8MiB", "64KiB"], ids=["default-ring", "tiny-ring"])
def test_spans_and_counted_losses_are_all_requests(ring: str, prefix: str, stage: Stage) -> None:
    """50,000 keep-alive requests. nginx's own log is the truth: wrk stops in the middle of requests already answered.

    With the tiny ring much must be lost, which shows that the count of losses can be wrong at all.
    """
    server, log = stage.ends.enter_context(counting_nginx(stage.new_folder("nginx")))
    agent = stage.agent(is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_RING_BYTES=ring)
    target = make_call(f"{prefix}load", "GET", 200, 1000).target

    cut_off = 0
    while logged_requests(log) < REQUESTS:
        run_wrk(server, target, seconds=2, connections=CONNECTIONS)
        cut_off += CONNECTIONS
    wait_until_quiet(stage, logged_requests(log))
    agent.assert_clean_stop()

    requests = logged_requests(log)  # nginx went on for a moment after wrk had left
    accounts = read_accounts(agent.messages)
    spans = stage.sink.wait_for(0, belongs_to(prefix, SERVER), settle_s=0)
    # Numbers only: a failure must not print 50,000 spans.
    span_count = len(spans)
    different_ids = len({span.span_id for span in spans})
    cut_short = sum(answered(span) != (200, 1000) for span in spans)
    assert requests == accounts.began
    assert requests == span_count + accounts.lost, accounts.losses
    assert span_count == accounts.exported
    assert span_count == different_ids
    assert cut_short <= cut_off, "only what wrk cut off at its end may lack an answer"


def answered(span: Span) -> tuple[int | None, int | None]:
    return span.attributes.get("http.response.status_code"), span.attributes.get("http.response.body.size")
