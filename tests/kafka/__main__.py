"""The Kafka tier with Apache Kafka, in its long forms: `make kafka-tier`, or `python -m tests.kafka outage`.

In:   which runs, all unless named
Out:  one line of figures for each; exit 1 when something was lost that must not be
Owns: nothing
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.kafka.brokers import ApacheKafka, apache_kafka
from tests.kafka.tier import REPLAY_GROUP, Gateway, Tier, missing, must_keep_lost, split
from tests.kafka.traces import SPANS_OF_A_TRACE, Trace, make_traces
from tests.services.processes import wait_until

TOPIC = "otlp-spans"
OUTAGE_SECONDS = 30
# Longer than the outage with what Kafka's clients need to find it again.
WAIT_THROUGH_OUTAGE_SECONDS = 70


def report(name: str, traces: list[Trace], lives: list[Gateway]) -> tuple[int, int, int]:
    spans = len(traces) * SPANS_OF_A_TRACE
    lost, broken, unsampled = missing(traces, lives), split(traces, lives), must_keep_lost(traces, lives)
    must_keep = sum(trace.is_failed for trace in traces)
    print(
        f"{name:<44} spans missing {len(lost)} of {spans}; traces whole {len(traces) - len(broken)}, split {len(broken)}; "
        f"must keep, lost or partial {len(unsampled)} of {must_keep}",
        flush=True,
    )
    return len(lost), len(broken), len(unsampled)


def started(folder: Path, ends: ExitStack, **options: object) -> tuple[ApacheKafka, Tier]:
    broker = ends.enter_context(apache_kafka(folder / "broker", TOPIC))
    tier = Tier(folder, broker.address, TOPIC, ends, **options)  # type: ignore[arg-type]
    tier.start()
    return broker, tier


def settle(tier: Tier, traces: list[Trace]) -> None:
    """Everything received, and time for the last decisions; those that fail show in the report."""
    tier.wait_until_received(traces, seconds=120)
    decided_at = time.monotonic() + tier.decision_wait_s + 3
    wait_until(lambda: time.monotonic() > decided_at, "decisions", seconds=tier.decision_wait_s + 10, every_s=0.5)


def steady(folder: Path, ends: ExitStack) -> bool:
    _, tier = started(folder, ends)
    traces = make_traces(2000, tier.randomness)
    tier.send(traces).join()
    settle(tier, traces)
    return report("steady", traces, tier.gateways) == (0, 0, 0)


def flood(folder: Path, ends: ExitStack) -> bool:
    _, tier = started(folder, ends)
    traces = make_traces(20_000, tier.randomness)
    began = time.monotonic()
    tier.send(traces).join()
    tier.wait_until_received(traces, seconds=120)
    took_s = time.monotonic() - began
    processes = {"broker": tier_broker(tier), **{name: node.process.pid for name, node in tier.nodes.items()}}
    processes |= {gateway.folder.name: gateway.process.pid for gateway in tier.gateways}
    memory = ", ".join(
        f"{name} {psutil.Process(pid).memory_info().rss >> 20}" for name, pid in processes.items() if pid
    )
    settle(tier, traces)
    is_right = report("20,000 traces as fast as they go", traces, tier.gateways) == (0, 0, 0)
    print(f"{'':<44} {len(traces) * SPANS_OF_A_TRACE} spans at the gateways after {took_s:.1f} s; RSS in MB: {memory}")
    return is_right


def tier_broker(tier: Tier) -> int | None:
    """Who listens on the broker's port."""
    port = int(tier.address.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return connection.pid
    return None


def control(folder: Path, ends: ExitStack) -> bool:
    _, tier = started(folder, ends, by_trace_id=False)
    traces = make_traces(2000, tier.randomness)
    tier.send(traces).join()
    settle(tier, traces)
    lost, broken, _ = report("control: partition_traces_by_id off", traces, tier.gateways)
    return lost == 0 and broken > len(traces) // 2


def killed_gateway(folder: Path, ends: ExitStack) -> bool:
    """It does not come back: its partitions go to the other when its session has ended."""
    broker, tier = started(folder, ends, receiver={"session_timeout": "10s"})
    traces = make_traces(2000, tier.randomness)
    began = time.monotonic()
    sending = tier.send(traces, pause_s=0.05)
    wait_until(lambda: len(missing(traces, tier.gateways)) < 5000, "it is in the midst of them", seconds=60)
    tier.gateways[0].process.kill()
    tier.gateways[0].process.wait()
    sending.join()
    settle(tier, traces)
    lost, _, _ = report("a gateway killed for good", traces, tier.gateways)
    broker.rewind(REPLAY_GROUP, int(time.monotonic() - began) + 5)
    replay = tier.start_gateway("replay", REPLAY_GROUP)
    wait_until(lambda: not missing(traces, [replay]), "replay has read all", seconds=60, every_s=0.2)
    settle(tier, traces)
    return lost == 0 and report("  read again by a replay group", traces, [replay]) == (0, 0, 0)


def outage(folder: Path, ends: ExitStack) -> bool:
    """Kafka is killed for half a minute, and a node is killed meanwhile; traffic goes on."""
    broker, tier = started(folder, ends, decision_wait_s=WAIT_THROUGH_OUTAGE_SECONDS)
    return through_outage(f"Kafka gone for {OUTAGE_SECONDS} s, a node killed", broker, tier) == (0, 0, 0)


def short_wait(folder: Path, ends: ExitStack) -> bool:
    """The same where traces are decided on before Kafka is back: nothing is missing, but some are judged by a part of them."""
    broker, tier = started(folder, ends, decision_wait_s=5)
    return through_outage("  the same with a decision wait of 5 s", broker, tier)[0] == 0


def through_outage(name: str, broker: ApacheKafka, tier: Tier) -> tuple[int, int, int]:
    traces = make_traces(2000, tier.randomness)
    sending = tier.send(traces, pause_s=0.2)  # 400 posts by two nodes: 40 s
    wait_until(lambda: len(missing(traces, tier.gateways)) < 9500, "traffic flows", seconds=60)
    broker.kill()
    back_at = time.monotonic() + OUTAGE_SECONDS
    tier.nodes["node-1"].process.kill()
    tier.nodes["node-1"].process.wait()
    tier.start_node("node-1")
    wait_until(lambda: time.monotonic() > back_at, "the outage", seconds=OUTAGE_SECONDS + 5, every_s=0.5)
    broker.start()
    sending.join()
    settle(tier, traces)
    return report(name, traces, tier.gateways)


RUNS: dict[str, Callable[[Path, ExitStack], bool]] = {
    "steady": steady,
    "flood": flood,
    "control": control,
    "gateway": killed_gateway,
    "outage": outage,
    "short-wait": short_wait,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], default=[])
    names = parser.parse_args().runs or list(RUNS)
    wrong = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="otel-ebpf-kafka-") as folder, ExitStack() as ends:
            if not RUNS[name](Path(folder), ends):
                wrong.append(name)
    if wrong:
        print(f"not as it should be: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
