"""Calls of a real Node service are children of the request whose callback sends them, or roots of traces of their own."""

import pytest

from tests.end_to_end.agent import Agent
from tests.end_to_end.bpf_objects import loaded_programs, programs_held_by
from tests.end_to_end.parentage import WARM_UP, judge, parents_of
from tests.end_to_end.sink import CLIENT
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to
from tests.services.calling_node import NODE_BY_NUMBERS, node_calling_service

pytestmark = pytest.mark.end_to_end

REQUESTS, AT_ONCE = 10, 40  # of each kind


def held_programs(agent: Agent) -> set[str]:
    held = programs_held_by([agent.probe_pid])
    return {name for number, name in loaded_programs().items() if number in held}


def test_no_call_is_said_to_belong_to_a_request_that_did_not_cause_it(prefix: str, stage: Stage) -> None:
    """In all the ways that Node has of calling later; a call that comes at once, or in a timer, has its parent."""
    service = stage.ends.enter_context(node_calling_service(stage.new_folder("node")))
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_SPAN_EVIDENCE="true")
    assert "on_node_made" in held_programs(agent)
    service.ask(f"warm-{prefix}", WARM_UP, AT_ONCE, NODE_BY_NUMBERS)

    caused = service.ask(f"hot-{prefix}", REQUESTS, AT_ONCE)

    spans = stage.sink.wait_for(len(caused) + REQUESTS * len(service.kinds), belongs_to(f"hot-{prefix}"))
    noise = stage.sink.wait_for(1, belongs_to("/noise/", CLIENT))
    verdict = judge(parents_of(spans), caused, parents_of(noise))
    assert ({}, []) == (verdict.wrong, verdict.missing)
    known = {path.split("/")[2] for path in caused.keys() - set(verdict.unknown)}
    assert {*NODE_BY_NUMBERS} <= known
    evidence = {span.attributes.get("otel_ebpf.evidence.parent") for span in spans if span.kind == CLIENT}
    assert {"callback", None} == evidence


def test_without_them_nothing_is_attached_to_node(prefix: str, stage: Stage) -> None:
    service = stage.ends.enter_context(node_calling_service(stage.new_folder("node")))
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_NODE_PARENTS="off")

    caused = service.ask(prefix, 5, AT_ONCE, NODE_BY_NUMBERS)

    spans = stage.sink.wait_for(len(caused) + 5 * len(NODE_BY_NUMBERS), belongs_to(prefix))
    assert {None} == set(parents_of(spans).values())
    assert "on_node_made" not in held_programs(agent)
