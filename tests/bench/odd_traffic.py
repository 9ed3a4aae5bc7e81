"""What odd traffic costs beside plain requests: CPU of the agent for a span, time of its hooks for a request.

In:   how many rounds
Out:  figures on standard output
Owns: the peers, an agent and a sink

A part of `make bench`; by itself with BENCH_ARGS="--only odd". Interleaved: each round has every kind once, and a ratio
is that to the plain requests of the same round.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.kernel_time import KernelTime
from tests.bench.odd_peers import KINDS, PLAIN
from tests.bench.processes import cpu_ns
from tests.bench.rounds import median, spread
from tests.end_to_end.agent import Agent, running_agent
from tests.end_to_end.sink import Sink, http_sink
from tests.services.processes import VENV_BIN, end, environment, free_port

REQUESTS = 2_000  # of a kind in a round: 4,000 spans, of both ends
FEWER = {"request head of 16 KB": 500, "request head of 60 KB": 150}  # what the ring holds, so that nothing is lost
RING = "64MiB"


@dataclass(frozen=True)
class Cost:
    agent_us: float  # a span
    hooks_us: float  # a request, both ends
    spans: float  # a request: 2 when nothing was lost


class Peers:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait(self) -> None:
        assert self.process.stdout is not None
        assert "\n" == self.process.stdout.readline()

    def exchange(self, kind: str, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind} {count}\n")
        self.process.stdin.flush()
        self.wait()


@contextmanager
def running_peers(port: int) -> Iterator[Peers]:
    process = subprocess.Popen(
        [str(VENV_BIN / "python"), "-m", "tests.bench.odd_peers", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        peers = Peers(process)
        peers.wait()
        yield peers
    finally:
        end(process)  # type: ignore[arg-type]


def agent_cpu_ns(agent: Agent) -> int:
    return cpu_ns(agent.probe_pid) + cpu_ns(agent.exporter_pid)


def wait_for_spans(sink: Sink, count: int) -> None:
    """Until they have come or stopped coming: what is lost never will."""
    last = -1
    while sink.span_count < count and sink.span_count != last:
        last = sink.span_count
        with sink.arrived:
            sink.arrived.wait_for(lambda seen=last: sink.span_count > seen, timeout=3)


def cost(kind: str, peers: Peers, agent: Agent, sink: Sink, kernel: KernelTime) -> Cost:
    requests = FEWER.get(kind, REQUESTS)
    spans, used_ns, hooks = sink.span_count, agent_cpu_ns(agent), kernel.of(agent.probe_pid)
    peers.exchange(kind, requests)
    hooks_ns = kernel.of(agent.probe_pid).since(hooks).ns
    wait_for_spans(sink, spans + 2 * requests)
    spans = sink.span_count - spans
    return Cost((agent_cpu_ns(agent) - used_ns) / 1000 / max(1, spans), hooks_ns / 1000 / requests, spans / requests)


def ratio(values: list[float], plain: list[float]) -> str:
    return spread([value / of_plain for value, of_plain in zip(values, plain, strict=True)])


def report(rounds: int) -> None:
    found: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-")))
        port = free_port()
        peers = ends.enter_context(running_peers(port))
        sink = ends.enter_context(http_sink())
        sink.keeps_spans = False
        settings = {
            "OTEL_EBPF_OPEN_PORT": str(port),
            "OTEL_EBPF_CACHE_DIR": str(folder / "cache"),
            "OTEL_EBPF_RING_BYTES": RING,
        }
        agent = ends.enter_context(running_agent(folder / "agent", sink, is_ended_by_test=True, **settings))
        kernel = ends.enter_context(KernelTime())
        for _ in range(rounds):
            for kind in KINDS:
                found[kind].append(cost(kind, peers, agent, sink, kernel))
        agent.stop()
    print(f"\nOdd traffic: {REQUESTS:,} requests a round, {rounds} interleaved rounds, medians (from-to)")
    print(f"{'':42}{'agent, µs CPU a span':^26}{'hooks, µs a request':^28}spans")
    plain = found[PLAIN]
    for kind, costs in found.items():
        agent_us, hooks_us = [each.agent_us for each in costs], [each.hooks_us for each in costs]
        agent_ratio = ratio(agent_us, [each.agent_us for each in plain])
        hooks_ratio = ratio(hooks_us, [each.hooks_us for each in plain])
        spans = median([each.spans for each in costs])
        print(f"{kind:42}{median(agent_us):6.1f} {agent_ratio:20}{median(hooks_us):7.1f} {hooks_ratio:20}{spans:5.2f}")
