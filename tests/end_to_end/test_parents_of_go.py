"""Each outgoing call of a real Go service is the child of the request that caused it, or the root of a trace of its own."""

import os
import time

import pytest

from tests.end_to_end.agent import Agent
from tests.end_to_end.bpf_objects import loaded_programs, programs_held_by
from tests.end_to_end.parentage import Verdict, judge, parents_of
from tests.end_to_end.sink import Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to
from tests.services.calling import CallingService
from tests.services.calling_go import (
    GO_BY_CONTEXT,
    GO_BY_GOROUTINES,
    GO_BY_ITSELF,
    GO_SERVERS,
    NET_HTTP,
    go_calling_service,
    kinds_named,
)
from tools.go_build import PLAIN, Kind

pytestmark = pytest.mark.end_to_end

REQUESTS = int(os.environ.get("OTEL_EBPF_TEST_REQUESTS", "15"))  # of each kind
AT_ONCE = 40
LONGEST_UNKNOWN_S = 150.0  # a doubt of a function lasts 60
# Every server by these versions of Go, plain and by TLS: see CONTRIBUTING.md.
KINDS = kinds_named(os.environ.get("OTEL_EBPF_TEST_GO", ""))
ROWS = [
    pytest.param(NET_HTTP, PLAIN, True, id="net/http"),
    *(
        pytest.param(server, kind, tls, id=f"{kind.toolchain}{'-pie' if kind.is_pie else ''}-{server}-{tls}")
        for kind in KINDS
        for server in GO_SERVERS
        for tls in (False, True)
    ),
]


def ask(stage: Stage, service: CallingService, prefix: str, count: int, kinds: tuple[str, ...]) -> list[Span]:
    caused = service.ask(prefix, count, AT_ONCE, kinds)
    return stage.sink.wait_for(len(caused) + count * len(kinds), belongs_to(prefix))


def know_goroutines(stage: Stage, service: CallingService, prefix: str) -> None:
    """Asks until calls by goroutines of each kind have a parent."""
    deadline, number = time.monotonic() + LONGEST_UNKNOWN_S, 0
    unknown = {*GO_BY_GOROUTINES} & {*service.kinds}
    while unknown and time.monotonic() < deadline:
        found = parents_of(ask(stage, service, f"{prefix}warm{number}-", 10, tuple(unknown)))
        unknown = {kind_of(path) for path, parent in found.items() if not parent}
        number += 1
    assert set() == unknown


def kind_of(path: str) -> str:
    return path.split("/")[2]


def held_programs(agent: Agent) -> set[str]:
    held = programs_held_by([agent.probe_pid])
    return {name for number, name in loaded_programs().items() if number in held}


@pytest.mark.parametrize(("server", "kind", "speaks_tls"), ROWS)
def test_calls_of_goroutines_are_children_of_their_request(
    server: str, kind: Kind, speaks_tls: bool, prefix: str, stage: Stage
) -> None:
    """A pool that the first request starts, and what outlives its request, is never misjudged; nor what nobody has
    caused. Collecting all the time, so that stacks move."""
    service = stage.ends.enter_context(
        go_calling_service(stage.new_folder("go"), kind, server, speaks_tls=speaks_tls, GOGC="5")
    )
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_SPAN_EVIDENCE="true")
    assert "on_goroutine_b" in {name[:14] for name in held_programs(agent)}
    know_goroutines(stage, service, prefix)

    caused = service.ask(f"hot-{prefix}", REQUESTS, AT_ONCE)

    spans = stage.sink.wait_for(len(caused) + REQUESTS * len(service.kinds), belongs_to(f"hot-{prefix}"))
    assert None is service.process.poll()
    verdicts = verdicts_of(service, stage, spans, caused)
    print(table(verdicts))
    assert {} == {name: verdict.wrong for name, verdict in verdicts.items() if verdict.wrong}
    assert {} == {name: verdict.missing for name, verdict in verdicts.items() if verdict.missing}
    certain = {*GO_BY_ITSELF, *GO_BY_GOROUTINES, *(GO_BY_CONTEXT if has_contexts(server) else ())} & {*service.kinds}
    assert certain == {name for name in certain if verdicts[name].is_all_right}
    assert {"goroutine", *({"request_context"} if has_contexts(server) else ())} == {
        evidence
        for span in spans
        if span.parent_span_id and (evidence := span.attributes.get("otel_ebpf.evidence.parent"))
    }


def has_contexts(server: str) -> bool:
    """fasthttp uses one for all requests of a connection."""
    return not server.startswith("fasthttp")


def verdicts_of(service: CallingService, stage: Stage, spans: list[Span], caused: dict[str, str]) -> dict[str, Verdict]:
    """By kind; "noise": what nobody has caused, and whatever was misjudged before."""
    found = parents_of(spans)
    before = parents_of(span for span in stage.sink.spans if not belongs_to("hot-")(span))
    misjudged = {path: parent for path, parent in before.items() if parent not in (None, request_of(path))}
    verdicts = {"noise": judge({}, {}, misjudged)}
    for kind in service.kinds:
        verdicts[kind] = judge(found, {path: parent for path, parent in caused.items() if kind_of(path) == kind}, {})
    return verdicts


def request_of(path: str) -> str:
    """`/in/KIND/NAME` of `/out/KIND/NAME/N`."""
    return f"/in/{path.removeprefix('/out/').rpartition('/')[0]}"


def table(verdicts: dict[str, Verdict]) -> str:
    counts = [
        f"{name:16}{verdict.right:8}{len(verdict.unknown):9}{len(verdict.wrong):7}{len(verdict.missing):9}"
        for name, verdict in verdicts.items()
    ]
    return "\n".join(["", f"{'':16}{'right':>8}{'unknown':>9}{'wrong':>7}{'no span':>9}", *counts])


def test_without_links_nothing_is_attached_to_a_go_program(prefix: str, stage: Stage) -> None:
    service = stage.ends.enter_context(go_calling_service(stage.new_folder("go")))
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_PARENTS="off")

    found = parents_of(ask(stage, service, prefix, 5, ("sequence",)))

    assert {None} == set(found.values())
    assert set() == {
        name for name in held_programs(agent) if name.startswith(("on_goroutine", "on_round", "on_conn", "on_request"))
    }
