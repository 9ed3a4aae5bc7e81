"""Traces of this host as the pipeline makes them: whole where all is known, and never wrong."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.exchanges.kin import MAX_DEPTH
from otel_ebpf.exchanges.kinship import Parents
from otel_ebpf.export.awaiting import MAX_AWAITING, MAX_WAIT_NS
from otel_ebpf.export.console import Console
from otel_ebpf.export.facts import Facts
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.self_metrics import SelfMetrics
from otel_ebpf.records.kinds import Kind, Record, RecordFlag, ServiceIdentity
from otel_ebpf.records.layouts import RECORD
from otel_ebpf.telemetry.outcome import MAX_WAIT_NS as LONGEST_WAIT_NS
from otel_ebpf.telemetry.outcome import WAIT_NS
from otel_ebpf.telemetry.places import HAS_IS_REMOTE, IS_REMOTE
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.sampling import OUTCOME, SamplerRules
from otel_ebpf.telemetry.spans import SpanData
from otel_ebpf.telemetry.trace_context import IdSource
from tests.unit.exchanges.linked import AF_UNIX, ANSWER, SERVICE, Call, Wire
from tests.unit.export.test_accounts import RING, Samples
from tests.unit.export.test_self_metrics import numbers, values
from tests.unit.telemetry.examples import HOST

SEED = bytes(32)
OUTSIDE = bytes((10, 0, 0, 9)).ljust(16, b"\0")
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"traceparent: 00-{TRACE_ID}-{PARENT_ID}-01\r\n"
Key = tuple[int, int]  # connection and number of an exchange


class Seen(Console):
    """In the place of the printer."""

    def __init__(self) -> None:
        super().__init__("json", io.StringIO())
        self.spans: dict[Key, SpanData] = {}
        self.exchanges: dict[Key, Exchange] = {}

    def add(self, exchange: Exchange, span: SpanData, service: str) -> None:
        key = exchange.connection, exchange.position
        assert key not in self.spans
        self.spans[key], self.exchanges[key] = span, exchange


class Agent:
    def __init__(self, sampler: SamplerRules | None = None, parents: Parents = Parents.NORMAL) -> None:
        rules = sampler or SamplerRules()
        facts = Facts(SEED, "1", HostFacts("", "", "", ""), None, 128, ("GET",), sampler=rules, parents=parents.value)
        self.inputs, self.seen = Samples(), Seen()
        self.inputs.tick_ns = 20_000_000
        inputs: Any = self.inputs
        self.pipeline = Pipeline(
            inputs, facts.services(), facts.builder(), facts.sample(), self.seen, None, None, facts.outcomes(), parents
        )
        self.pipeline.take_frame(
            ServiceIdentity(SERVICE, 1, b"shop", b"/shop", (b"shop",), {}, b"/", "", (8080,), "root")
        )

    def take(self, *records: Record) -> "Agent":
        for record in records:
            *fields, payload = record
            self.inputs.waiting.append(RECORD.pack(*fields) + payload)
        return self

    def tick(self, count: int = 1, after_ns: int = 0) -> None:
        self.inputs.now_ns += after_ns
        for _ in range(count):
            self.pipeline.tick(0)

    def span(self, key: Key) -> SpanData:
        return self.seen.spans[key]

    def links(self) -> dict[str, int]:
        return dict(self.pipeline.sampler.places.links)


def parent(agent: Agent, key: Key) -> Key | None:
    """Whose span is its parent, of those that were seen; the trace must be that one's, too."""
    span = agent.span(key)
    if not span.parent_span_id:
        assert IdSource(SEED).ids(*key)[0] == span.trace_id, "a root has a trace id of its own"
        return None
    (found,) = [other for other, candidate in agent.seen.spans.items() if candidate.span_id == span.parent_span_id]
    assert agent.span(found).trace_id == span.trace_id
    return found


def chain(length: int, *, headers: str = "") -> list[Call]:
    """A request from elsewhere, and calls under each other."""
    calls = [Wire(9000, 9001, client_port=1, client_address=OUTSIDE).call("/0", headers=headers)]
    for number in range(1, length):
        wire = Wire(2 * number, 2 * number + 1, client_port=number + 1)
        calls.append(wire.call(f"/{number}", parent=calls[-1].server))
    return calls


def deep(calls: list[Call]) -> Iterator[Record]:
    first, *under = calls
    yield first.read
    for call in under:
        yield from (call.asked, call.read)
    for call in reversed(under):
        yield from (call.answered, call.heard)
    yield first.answered


@pytest.mark.parametrize("headers", ["", TRACEPARENT + "tracestate: a=1\r\n"])
def test_a_chain_of_services_is_one_trace(headers: str) -> None:
    """Children end first. What the first request's header says holds for all under it."""
    calls = chain(4, headers=headers)
    agent = Agent().take(*deep(calls))
    agent.tick(2)

    first, *under = calls
    above = first.server
    for call in under:
        assert above == parent(agent, call.client)
        assert call.client == parent(agent, call.server)
        above = call.server
    spans = list(agent.seen.spans.values())
    assert 7 == len(spans)
    assert {(agent.span(first.server).trace_id, b"a=1" if headers else b"")} == {
        (span.trace_id, span.trace_state) for span in spans
    }
    assert (bytes.fromhex(PARENT_ID) if headers else b"") == agent.span(first.server).parent_span_id


def test_only_the_parent_that_came_over_the_network_is_remote() -> None:
    calls = chain(2, headers=TRACEPARENT)
    agent = Agent().take(*deep(calls))
    agent.tick(2)

    flags = [
        agent.span(key).flags & (HAS_IS_REMOTE | IS_REMOTE)
        for key in (calls[0].server, calls[1].client, calls[1].server)
    ]
    assert [HAS_IS_REMOTE | IS_REMOTE, HAS_IS_REMOTE, HAS_IS_REMOTE] == flags


def test_a_traceparent_on_the_wire_wins_over_every_link() -> None:
    """The application is instrumented itself: its own span is the parent, at both ends; and it is on this host."""
    outer = chain(1)[0]
    named = Wire(2, 3, client_port=2).call("/1", headers=TRACEPARENT, parent=outer.server)
    agent = Agent().take(*deep([outer, named]))
    agent.tick(2)

    for key in (named.client, named.server):
        span = agent.span(key)
        assert (TRACE_ID, PARENT_ID) == (span.trace_id.hex(), span.parent_span_id.hex())
        assert not span.flags & IS_REMOTE
    assert 1 == agent.pipeline.sampler.places.contradictions
    assert {"traceparent": 2} == agent.links()


def test_ends_that_have_read_different_headers_are_not_linked() -> None:
    """They cannot have had the same bytes."""
    call = Wire(1, 2).call("/a", headers=TRACEPARENT)
    other = call.asked._replace(payload=call.request.replace(b"-01\r\n", b"-00\r\n"))
    agent = Agent().take(other, call.read, call.answered, call.heard)
    agent.tick(2)

    assert agent.span(call.server).flags & IS_REMOTE
    assert 1 == agent.pipeline.sampler.places.contradictions


def test_a_clients_record_that_comes_a_pass_later_still_counts() -> None:
    """It was held up in its call while the server has answered already."""
    call = Wire(1, 2, is_caller_watched=True).call()
    agent = Agent().take(call.read, call.answered)
    agent.tick()
    assert {} == agent.seen.spans
    agent.take(call.asked, call.heard).tick(2)

    assert call.client == parent(agent, call.server)


def test_who_is_not_watched_is_not_waited_for() -> None:
    call = Wire(1, 2).call()
    agent = Agent().take(call.read, call.answered)
    agent.tick()

    assert parent(agent, call.server) is None


def test_a_client_that_is_never_heard_of_is_not_waited_for_for_ever() -> None:
    """Its record was lost; or it comes when the server's span has left."""
    call = Wire(1, 2, is_caller_watched=True).call()
    agent = Agent().take(call.read, call.answered)
    agent.tick(2)
    assert ({}, 1) == (agent.seen.spans, agent.pipeline.open_by_service()[SERVICE][0])
    agent.tick(after_ns=MAX_WAIT_NS)

    assert parent(agent, call.server) is None
    agent.take(call.asked, call.heard).tick()
    assert parent(agent, call.client) is None
    assert agent.pipeline.assembler.kinship is not None
    assert {"too late": 1} == agent.pipeline.assembler.kinship.refused


def test_no_more_wait_than_there_is_room_for() -> None:
    agent = Agent()
    for number in range(MAX_AWAITING + 3):
        call = Wire(2 * number, 2 * number + 1, client_port=number, is_caller_watched=True).call()
        agent.take(call.read, call.answered)
    agent.tick()

    assert (3, MAX_AWAITING) == (len(agent.seen.spans), agent.pipeline.open_by_service()[SERVICE][0])


def test_what_is_still_waited_for_at_the_end_is_told() -> None:
    call = Wire(1, 2, is_caller_watched=True).call()
    agent = Agent().take(call.read, call.answered)
    agent.tick()
    agent.pipeline.finish()

    assert [call.server] == list(agent.seen.spans)


def test_links_are_counted_by_what_they_rest_on() -> None:
    calls = chain(3)
    alone = Wire(50, 51, client_port=50).call("/noise")
    agent = Agent().take(*deep(calls), alone.asked, alone.heard)
    agent.tick(2)

    assert {"context": 2, "connection": 2, "unknown": 1} == agent.links()


def test_links_are_metrics_of_the_agent() -> None:
    outer, inner = chain(2)
    lost = Wire(50, 51, client_port=50).call("/lost", parent=(99, 0))
    agent = Agent().take(*deep([outer, inner]), lost.asked, lost.heard)
    agent.tick(2)
    own = SelfMetrics("1", HOST, None)
    own.pipeline, own.ring = agent.pipeline, RING

    found = numbers(own)
    assert {"context": 1, "connection": 1, "unknown": 1} == values(
        found["otel_ebpf.links"], "otel_ebpf.evidence.parent"
    )
    assert {"parent not known": 1, "contradicted by traceparent": 0} == values(
        found["otel_ebpf.links.refused"], "otel_ebpf.reason"
    )


@pytest.mark.parametrize("parents", [Parents.STRICT, Parents.OFF])
def test_what_is_refused_leaves_roots(parents: Parents) -> None:
    """Strict: the call was begun behind the answer. Off: no link at all."""
    outer, inner = chain(2)
    agent = Agent(parents=parents).take(
        outer.read, outer.answered, inner.asked, inner.read, inner.answered, inner.heard
    )
    agent.tick(2)

    assert parent(agent, inner.client) is None
    assert (inner.client if parents is Parents.STRICT else None) == parent(agent, inner.server)


@pytest.mark.parametrize("flag", ["00", "01"])
def test_all_under_a_request_are_sampled_as_it_is(flag: str) -> None:
    calls = chain(3, headers=TRACEPARENT.replace("-01\r\n", f"-{flag}\r\n"))
    agent = Agent(SamplerRules("parentbased_always_off")).take(*deep(calls))
    agent.tick(2)

    assert (5 if flag == "01" else 0) == len(agent.seen.spans)


@pytest.mark.parametrize("name", ["traceidratio", "parentbased_traceidratio"])
def test_a_ratio_keeps_traces_whole(name: str) -> None:
    agent, kept = Agent(SamplerRules(name, 0.5)), 0
    for number in range(60):
        outer = Wire(1000 + 10 * number, 1001 + 10 * number, client_port=number, client_address=OUTSIDE).call("/0")
        inner = Wire(1002 + 10 * number, 1003 + 10 * number, client_port=number).call("/1", parent=outer.server)
        before = len(agent.seen.spans)
        agent.take(*deep([outer, inner])).tick(2)
        assert len(agent.seen.spans) - before in (0, 3)
        kept += len(agent.seen.spans) > before
    assert 5 < kept < 55


def failing(records: Iterator[Record], call: Call) -> Iterator[Record]:
    for record in records:
        if record.payload == ANSWER and (record.connection, record.position) == call.server:
            payload = ANSWER.replace(b"200 OK", b"500 NO")
            record = record._replace(payload=payload, tail=payload[-8:])
        yield record


@pytest.mark.parametrize("headers", ["", TRACEPARENT])
@pytest.mark.parametrize("which", [None, 0, 2])
def test_the_sampler_of_outcomes_keeps_or_drops_a_trace_of_this_host_whole(which: int | None, headers: str) -> None:
    """Rate 0: only what is interesting stays. The first request ends long after the others have waited their time."""
    calls = chain(3, headers=headers)
    records = list(failing(deep(calls), calls[which]) if which is not None else deep(calls))
    agent = Agent(SamplerRules(OUTCOME, 0.0, 0.0)).take(*records[:-1])
    agent.tick(2)
    for _ in range(4):
        agent.tick(after_ns=WAIT_NS)
    agent.take(records[-1]).tick()
    for _ in range(4):
        agent.tick(after_ns=WAIT_NS)

    assert (0 if which is None else 5) == len(agent.seen.spans)


def test_what_waits_for_a_request_that_never_ends_leaves_in_the_end() -> None:
    calls = chain(2)
    agent = Agent(SamplerRules(OUTCOME, 1.0, 0.0)).take(*list(deep(calls))[:-1])
    agent.tick(2)
    for _ in range(LONGEST_WAIT_NS // WAIT_NS - 2):
        agent.tick(after_ns=WAIT_NS)
    assert {} == agent.seen.spans
    agent.tick(after_ns=2 * WAIT_NS)
    agent.tick(after_ns=WAIT_NS)

    assert {calls[1].client, calls[1].server} == set(agent.seen.spans)


def test_what_goes_on_for_ever_is_several_traces() -> None:
    """Each request starts the next one: what is known of a trace is bounded."""
    calls = chain(2 * MAX_DEPTH)
    agent = Agent()
    for call in calls:
        agent.take(*([call.asked] if call is not calls[0] else []), call.read).tick()
    for call in calls:
        agent.take(call.answered, *([call.heard] if call is not calls[0] else [])).tick()

    roots = [span for span in agent.seen.spans.values() if not span.parent_span_id]
    assert len(agent.seen.spans) == 2 * len(calls) - 1
    assert 1 < len(roots) <= 5
    assert {span.trace_id for span in roots} == {span.trace_id for span in agent.seen.spans.values()}


@dataclass
class Node:
    """One exchange of a random forest: from elsewhere (no client is watched), to elsewhere (no server is), or inside."""

    call: Call
    above: "Node | None"
    has_client: bool
    has_server: bool
    is_named: bool  # it carries a traceparent
    events: list[str] = field(default_factory=list)
    children: "list[Node]" = field(default_factory=list)


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[Node], list[Record], list[int]]:
    """Exchanges, their records in an order that can be, and how many of them come in each pass."""
    nodes: list[Node] = []
    wires: list[tuple[Wire, list[Node]]] = []
    for number in range(draw(st.integers(1, 12))):
        serving = [node for node in nodes if node.has_server]
        above = draw(st.none() | st.sampled_from(serving)) if serving else None
        has_client = above is not None or draw(st.booleans())
        has_server = not has_client or draw(st.integers(0, 3)) > 0
        is_named = draw(st.integers(0, 5)) == 0
        kind = draw(st.sampled_from(["plain", "TLS", "Unix", "plain"]))
        fresh = Wire(
            10 + 2 * number,
            11 + 2 * number,
            client_port=number,
            client_address=Wire.client_address if has_client else OUTSIDE,
            flags=RecordFlag.ROLE_BY_CONNECTION | (RecordFlag.TLS if kind == "TLS" else 0),
            is_caller_watched=has_client and kind != "plain",
            client_family=AF_UNIX if kind == "Unix" and has_client else 2,
            server_family=AF_UNIX if kind == "Unix" and has_client else 2,
        )
        reusable = [
            (wire, users)
            for wire, users in wires
            if (users[0].has_client, users[0].has_server) == (has_client, has_server)
        ]
        wire, users = draw(st.sampled_from(reusable)) if reusable and draw(st.booleans()) else (fresh, [])
        if wire is fresh:
            wires.append((wire, users))
        headers = f"traceparent: 00-{number + 1:032x}-{PARENT_ID}-01\r\n" if is_named else ""
        call = wire.call(f"/{number}", headers=headers, parent=above.call.server if above else None)
        node = Node(call, above, has_client, has_server, is_named)
        users.append(node)
        nodes.append(node)
    order = _order(draw, nodes, wires)
    sizes = draw(st.lists(st.integers(0, 8), min_size=len(order) + 1, max_size=len(order) + 1))
    return nodes, order, sizes


def _order(draw: st.DrawFn, nodes: list[Node], wires: list[tuple[Wire, list[Node]]]) -> list[Record]:
    """An exchange begins once its parent has been read, and when that before it on its connection is over."""
    before = {id(node): users[index - 1] for _, users in wires for index, node in enumerate(users) if index}
    done: dict[tuple[int, str], bool] = {}
    records: list[Record] = []

    def has(node: Node | None, event: str) -> bool:
        if node is None or (event in ("asked", "heard") and not node.has_client):
            return True
        return (event in ("read", "answered") and not node.has_server) or done.get((id(node), event), False)

    def may(node: Node, event: str) -> bool:
        first = before.get(id(node))
        if has(node, event) or not (has(first, "heard") and has(first, "answered")):
            return False
        if event in ("asked", "read"):
            return node.above is None or has(node.above, "read")
        if event == "answered":
            return has(node, "read")
        return has(node, "asked") and has(node, "answered")

    while True:
        ready = [
            (node, event) for node in nodes for event in ("asked", "read", "answered", "heard") if may(node, event)
        ]
        if not ready:
            return records
        node, event = draw(st.sampled_from(ready))
        done[id(node), event] = True
        records.append(getattr(node.call, event))


@settings(max_examples=300, deadline=None)
@given(forests())
def test_in_any_forest_and_any_order_no_parent_is_wrong(forest: tuple[list[Node], list[Record], list[int]]) -> None:
    """It is the right one, or absent where its record came too late; and the trace is the parent's."""
    nodes, records, sizes = forest
    agent = Agent()
    rest = iter(records)
    for size in sizes:
        agent.take(*[record for _, record in zip(range(size), rest, strict=False)])
        agent.tick()
    agent.take(*rest).tick(3)
    agent.pipeline.finish()

    wanted = {node.call.client: node.above.call.server if node.above else None for node in nodes if node.has_client}
    wanted |= {node.call.server: node.call.client if node.has_client else None for node in nodes if node.has_server}
    named = {
        key: f"{int(node.call.request.partition(b'00-')[2][:32], 16):032x}"
        for node in nodes
        if node.is_named
        for key in (node.call.client, node.call.server)
    }
    assert wanted.keys() == agent.seen.spans.keys()
    for key, truth in wanted.items():
        if key in named:
            assert (named[key], PARENT_ID) == (agent.span(key).trace_id.hex(), agent.span(key).parent_span_id.hex())
            continue
        found = parent(agent, key)
        assert found in (truth, None)
        if found is None and truth is not None:
            assert may_be_missed(records, key, truth)


def may_be_missed(records: list[Record], key: Key, truth: Key) -> bool:
    """The kernel does not say that a client's record will come, and it comes behind the server's; or the parent had ended."""
    begins = {
        (record.connection, record.position): place
        for place, record in enumerate(records)
        if record.kind == Kind.REQUEST
    }
    ends = {
        (record.connection, record.position): place
        for place, record in enumerate(records)
        if record.kind == Kind.RESPONSE
    }
    if records[begins[key]].role == Role.SERVER:
        return not records[begins[key]].flags & RecordFlag.CALLER_WATCHED and begins[truth] > begins[key]
    return ends[truth] < begins[key]
