"""When the agent lives, when it is ready, and what it says when not."""

import json
from typing import Any

from otel_ebpf.export.health import ENDING, STALLED_NS, Health
from otel_ebpf.export.pages import Page


class Clock:
    now_ns = 5

    def __call__(self) -> int:
        return self.now_ns


def told(page: Page) -> tuple[int, list[str]]:
    document: dict[str, Any] = json.loads(page.body)
    assert document["ok"] is (page.status == 200)
    return page.status, document["why_not"]


def asked(health: Health) -> dict[str, tuple[int, list[str]]]:
    return {path: told(make("")) for path, make in health.pages().items()}


def test_an_agent_that_starts_lives_and_is_not_ready() -> None:
    """However long the compiler takes."""
    clock = Clock()
    health = Health(clock)
    clock.now_ns += 10 * STALLED_NS

    assert {
        "/livez": (200, []),
        "/readyz": (503, ["starting: the programs are being compiled and loaded"]),
    } == asked(health)


def test_an_agent_at_work_is_both() -> None:
    health = Health(Clock())
    health.begin_work()

    assert {"/livez": (200, []), "/readyz": (200, [])} == asked(health)


def test_a_pipeline_that_has_stopped_moving_is_neither() -> None:
    clock = Clock()
    health = Health(clock)
    health.begin_work()
    clock.now_ns += STALLED_NS
    still = ["the pipeline has not moved for 10 s"]
    assert {"/livez": (503, still), "/readyz": (503, still)} == asked(health)

    health.beat()
    assert {"/livez": (200, []), "/readyz": (200, [])} == asked(health)


def test_what_keeps_requests_from_being_seen_is_told_and_no_reason_to_start_again() -> None:
    health = Health(Clock())
    health.problems = lambda: ["no hook is attached"]
    health.begin_work()

    assert {"/livez": (200, []), "/readyz": (503, ["no hook is attached"])} == asked(health)


def test_an_agent_that_ends_is_not_ready() -> None:
    health = Health(Clock())
    health.begin_work()
    health.phase = ENDING

    assert {"/livez": (200, []), "/readyz": (503, ["ending"])} == asked(health)


def test_details_are_told_and_decide_nothing() -> None:
    """A collector that takes nothing is no reason to take the agent away: it keeps what it has."""
    health = Health(Clock())
    health.details = lambda: {"collector": "takes no spans now: Connection refused"}
    health.begin_work()
    page = health.pages()["/readyz"]("")

    assert 200 == page.status
    assert "takes no spans now: Connection refused" == json.loads(page.body)["collector"]
