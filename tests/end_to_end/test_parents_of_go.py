"""Each outgoing call of a real Go service is the child of the request that caused it, or the root of a trace of its own."""

import time

import pytest

from tests.end_to_end.agent import Agent
from tests.end_to_end.bpf_objects import loaded_programs, programs_held_by
from tests.end_to_end.parentage import parents_of
from tests.end_to_end.sink import Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to
from tests.services.calling import CallingService
from tests.services.calling_go import GO_BY_GOROUTINES, GO_BY_ITSELF, GO_UNKNOWN, go_calling_service

pytestmark = pytest.mark.end_to_end

REQUESTS, AT_ONCE = 15, 20  # of each kind
LONGEST_UNKNOWN_S = 60.0


def ask(stage: Stage, service: CallingService, prefix: str, count: int, kinds: tuple[str, ...]) -> list[Span]:
    caused = service.ask(prefix, count, AT_ONCE, kinds)
    return stage.sink.wait_for(len(caused) + count * len(kinds), belongs_to(prefix))


def know_goroutines(stage: Stage, service: CallingService, prefix: str) -> None:
    """Asks until calls by goroutines of each kind have a parent."""
    deadline, unknown, number = time.monotonic() + LONGEST_UNKNOWN_S, set(GO_BY_GOROUTINES), 0
    while unknown and time.monotonic() < deadline:
        found = parents_of(ask(stage, service, f"{prefix}warm{number}-", 5, tuple(unknown)))
        unknown -= {path.split("/")[2] for path, parent in found.items() if parent}
        number += 1
    assert set() == unknown


def held_programs(agent: Agent) -> set[str]:
    held = programs_held_by([agent.probe_pid])
    return {name for number, name in loaded_programs().items() if number in held}


def test_calls_of_goroutines_are_children_of_their_request(prefix: str, stage: Stage) -> None:
    """By TLS at both sides; a pool that the first request starts, and what outlives its request, is never misjudged."""
    service = stage.ends.enter_context(go_calling_service(stage.new_folder("go"), speaks_tls=True))
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_SPAN_EVIDENCE="true")
    assert "on_goroutine_b" in {name[:14] for name in held_programs(agent)}
    know_goroutines(stage, service, prefix)

    caused = service.ask(f"hot-{prefix}", REQUESTS, AT_ONCE)

    spans = stage.sink.wait_for(len(caused) + REQUESTS * len(service.kinds), belongs_to(f"hot-{prefix}"))
    found = parents_of(spans)
    certain = {path for path in caused if path.split("/")[2] not in GO_UNKNOWN}
    assert {*GO_BY_ITSELF, *GO_BY_GOROUTINES} == {path.split("/")[2] for path in certain}
    assert {} == {path: (found.get(path), caused[path]) for path in certain if found.get(path) != caused[path]}
    assert {} == {path: found[path] for path in caused.keys() - certain if found[path] not in (None, caused[path])}
    assert {"goroutine"} == {
        evidence
        for span in spans
        if span.parent_span_id and (evidence := span.attributes.get("otel_ebpf.evidence.parent"))
    }


def test_without_links_nothing_is_attached_to_a_go_program(prefix: str, stage: Stage) -> None:
    service = stage.ends.enter_context(go_calling_service(stage.new_folder("go")))
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_PARENTS="off")

    found = parents_of(ask(stage, service, prefix, 5, ("sequence",)))

    assert {None} == set(found.values())
    assert set() == {name for name in held_programs(agent) if name.startswith(("on_goroutine", "on_round", "on_conn"))}
