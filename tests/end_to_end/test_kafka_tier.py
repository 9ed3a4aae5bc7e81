"""collector-config/kafka/ with a small broker: whole traces, nothing lost. `make kafka-tier` shows more, with Apache Kafka."""

import random
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.sink import CLIENT, SERVER, Sink, Span
from tests.end_to_end.stage import Stage
from tests.kafka.brokers import small_broker
from tests.kafka.tier import REPLAY_GROUP, Tier, missing, must_keep_lost, split
from tests.kafka.traces import SPANS_OF_A_POST, make_traces, posts_of
from tests.services.plan import make_call
from tests.services.processes import wait_until

TOPIC = "otlp-spans"
TRACES = 600


def started(folder: Path, ends: ExitStack, **options: object) -> Tier:
    broker = ends.enter_context(small_broker(folder / "broker", TOPIC))
    tier = Tier(folder, broker.address, TOPIC, ends, **options)  # type: ignore[arg-type]
    tier.start()
    return tier


def test_every_trace_is_whole_on_one_gateway(tmp_path: Path) -> None:
    """Its spans come through both nodes and in many posts, and meet by the trace id."""
    with ExitStack() as ends:
        tier = started(tmp_path, ends, decision_wait_s=5)
        traces = make_traces(TRACES, tier.randomness)
        tier.send(traces).join()
        tier.wait_until_received(traces)
        tier.wait_until_decided(traces, tier.gateways)

        assert set() == split(traces, tier.gateways)


def test_without_partitioning_most_traces_are_split(tmp_path: Path) -> None:
    """The control: the check above can fail."""
    with ExitStack() as ends:
        tier = started(tmp_path, ends, by_trace_id=False, decision_wait_s=5)
        traces = make_traces(TRACES, tier.randomness)
        tier.send(traces).join()
        tier.wait_until_received(traces)

        assert len(split(traces, tier.gateways)) > TRACES // 2


def test_what_a_killed_gateway_held_is_lost_to_sampling_until_it_is_replayed(tmp_path: Path) -> None:
    """Its partitions go on where it stood, so nothing is missing; another group reads again and decides on whole traces."""
    with ExitStack() as ends:
        tier = started(tmp_path, ends, decision_wait_s=5)
        traces = make_traces(TRACES, tier.randomness)
        posts = posts_of(traces, tier.randomness)
        middle = len(posts) // 2  # many traces have posts on both sides of it
        later = (len(posts) - middle) * SPANS_OF_A_POST
        tier.send_posts(posts[:middle]).join()
        wait_until(lambda: len(missing(traces, tier.gateways)) <= later, "it is in the midst of them")
        victim = tier.gateways[0]
        victim.process.kill()
        victim.process.wait()
        tier.start_gateway("gateway-1")
        tier.send_posts(posts[middle:]).join()
        tier.wait_until_received(traces)
        assert split(traces, tier.gateways), "nothing was split: this shows nothing"

        replay = tier.start_gateway("replay", REPLAY_GROUP)
        tier.wait_until_decided(traces, [replay])

        assert set() == missing(traces, [replay])
        assert set() == must_keep_lost(traces, [replay])


def test_an_unreachable_broker_and_a_killed_node_lose_nothing(tmp_path: Path) -> None:
    """What a node has taken stands on its disk until Kafka has it."""
    with ExitStack() as ends:
        broker = ends.enter_context(small_broker(tmp_path / "broker", TOPIC))
        tier = Tier(tmp_path, broker.address, TOPIC, ends, decision_wait_s=10)
        tier.start()
        traces = make_traces(TRACES, tier.randomness)
        broker.freeze()
        tier.send(traces).join()
        assert len(missing(traces, tier.gateways)) > TRACES, "the broker was reachable"
        tier.nodes["node-1"].process.kill()
        tier.nodes["node-1"].process.wait()
        tier.start_node("node-1")
        broker.thaw()

        tier.wait_until_received(traces)
        tier.wait_until_decided(traces, tier.gateways)

        assert set() == split(traces, tier.gateways)


def kinds_by_trace(spans: list[Span]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for span in spans:
        found.setdefault(span.trace_id, []).append(span.kind)
    return {trace_id: sorted(kinds) for trace_id, kinds in found.items()}


def test_spans_of_two_agents_meet_on_one_gateway(prefix: str, stage: Stage) -> None:
    """One agent watches nginx, another one the server behind it, each with a node of its own; a trace has spans of both."""
    tier = started(stage.folder, stage.ends, decision_wait_s=5)
    behind = stage.server("go")
    front = stage.proxy(behind, keep_alive=True)
    for server, node in ((front, "node-1"), (behind, "node-2")):
        sink = Sink(tier.nodes[node].endpoint, "http/protobuf")
        stage.agent(sink=sink, OTEL_EBPF_OPEN_PORT=server.port)
    trace_ids = [random.randbytes(16) for _ in range(120)]
    failed = trace_ids[::10]
    calls = [
        make_call(
            f"{prefix}{number}",
            "GET",
            500 if trace_id in failed else 200,
            headers={"traceparent": f"00-{trace_id.hex()}-{random.randbytes(8).hex()}-01"},
        )
        for number, trace_id in enumerate(trace_ids)
    ]
    stage.client("http.client", front, calls).send()
    whole = sorted([SERVER, CLIENT, SERVER])

    def on_gateways() -> list[dict[bytes, list[int]]]:
        """Of each, those of this test's traces that are whole."""
        seen = [kinds_by_trace(gateway.received) for gateway in tier.gateways]
        return [{key: kinds for key, kinds in of_one.items() if key in trace_ids and kinds == whole} for of_one in seen]

    wait_until(
        lambda: sum(map(len, on_gateways())) >= len(trace_ids), f"{len(trace_ids)} traces, each whole on one gateway"
    )

    assert sorted(trace_ids) == sorted(trace_id for of_one in on_gateways() for trace_id in of_one)
    assert [] == [gateway.folder for gateway, of_one in zip(tier.gateways, on_gateways(), strict=True) if not of_one]
    received = [span for gateway in tier.gateways for span in gateway.received if span.trace_id in trace_ids]
    assert len(whole) * len(trace_ids) == len(received)
    wait_until(
        lambda: set(failed) <= {key for gateway in tier.gateways for key in kinds_by_trace(gateway.kept)},
        "failed traces are kept",
    )
    kept = {key: kinds for gateway in tier.gateways for key, kinds in kinds_by_trace(gateway.kept).items()}
    assert [whole] * len(failed) == [kept[trace_id] for trace_id in failed]
