"""What the agent costs, side by side with none, in one run: `make bench`, or `make bench BENCH_ARGS="--rounds 9"`.

In:   how many rounds
Out:  figures on standard output, never a verdict: a shared machine's noise would decide it
Owns: the servers, agents and the sink that it starts
"""

import argparse
import os
import platform
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench import fast_lane, measurements, odd_traffic, parents, sampling, spans, tls
from tests.bench.odd_traffic import agent_cpu_ns, wait_for_spans
from tests.bench.processes import memory
from tests.bench.rounds import (
    NGINX_TARGET,
    Sample,
    build_ping_pong,
    header,
    loads,
    median,
    no_processor_sleeps,
    ping_pong,
    row,
)
from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.agent import Agent, running_agent
from tests.end_to_end.sink import Sink, http_sink
from tests.services.load import SteadyClient, run_wrk
from tests.services.processes import wait_until
from tests.services.servers import Running, plain_nginx, serving

STEADY_PER_SECOND, STEADY_SECONDS = 20_000, 5
FLOOD_SECONDS = 5


class Bench:
    def __init__(self, folder: Path, nginx: Running, files: Running) -> None:
        self.folder = folder
        self.nginx = nginx
        self.files = files
        self.starts = 0

    def start(self, ends: ExitStack, cache: str = "cache") -> tuple[Agent, Sink]:
        """A fresh agent on both servers, exporting to a sink that only counts."""
        self.starts += 1
        sink = ends.enter_context(http_sink())
        sink.keeps_spans = False
        settings = {
            "OTEL_EBPF_OPEN_PORT": f"{self.nginx.port},{self.files.port}",
            "OTEL_EBPF_CACHE_DIR": str(self.folder / cache),
        }
        folder = self.folder / f"agent-{self.starts}"
        return ends.enter_context(running_agent(folder, sink, is_ended_by_test=True, **settings)), sink

    def overhead(self, rounds: int) -> None:
        todo = loads(self.folder, self.nginx, self.files)
        without: dict[str, list[Sample]] = {load.name: [] for load in todo}
        with_agent: dict[str, list[Sample]] = {load.name: [] for load in todo}
        with no_processor_sleeps():
            for number in range(2 * rounds):
                if number % 4 in (0, 3):  # without, with, with, without: what drifts does so for both
                    for load in todo:
                        without[load.name].append(load.sample())
                    continue
                with ExitStack() as ends:
                    agent, _ = self.start(ends)
                    for load in todo:
                        with_agent[load.name].append(load.sample())
                    agent.stop()
        print(f"\nOverhead, medians of {rounds} interleaved rounds (from-to); no processor sleeps\n{header()}")
        for load in todo:
            print(row(load.name, without[load.name], with_agent[load.name]))

    def memory(self) -> None:
        print(f"\nMemory, MB{'RSS':>12} {'PSS':>8}")
        with ExitStack() as ends:
            agent, sink = self.start(ends)
            for when in ("after start", "after load"):
                pids = {"probe": agent.probe_pid, "exporter": agent.exporter_pid}
                found = {name: memory(pid) for name, pid in pids.items()}
                for name, used in found.items():
                    print(f"  {name:9} {used.rss_mb:10.1f} {used.pss_mb:8.1f}  {when}")
                total = sum(used.pss_mb for used in found.values())
                print(f"  {'in all':9} {sum(used.rss_mb for used in found.values()):10.1f} {total:8.1f}  {when}")
                if when == "after start":
                    wait_for_spans(sink, round(run_wrk(self.nginx, NGINX_TARGET, seconds=2) * 2))
            agent.stop()

    def first_span(self, repeats: int) -> None:
        print("\nStart, seconds from the command")
        for kind in ("cold", "warm"):
            ready, first = [], []
            for number in range(repeats):
                cache = f"cold-{number}" if kind == "cold" else "cache"
                with ExitStack() as ends:
                    ends.enter_context(SteadyClient(self.nginx, NGINX_TARGET, pause_s=0.01))
                    began_ns = time.monotonic_ns()
                    agent, sink = self.start(ends, cache)
                    ready.append((time.monotonic_ns() - began_ns) / 1e9)
                    wait_until(lambda sink=sink: sink.span_count, "the first span")
                    assert sink.first_arrival_monotonic_ns is not None
                    first.append((sink.first_arrival_monotonic_ns - began_ns) / 1e9)
                    agent.stop()
            what = "nothing compiled before" if kind == "cold" else "bytecode in the cache"
            print(f"  {kind} ({what}): ready {median(ready):.2f}, first span at the collector {median(first):.2f}")

    def steady(self) -> None:
        """Where nothing is lost, what the agent costs can be divided by what it delivered."""
        requests = STEADY_PER_SECOND * STEADY_SECONDS
        run = ping_pong(build_ping_pong(self.folder), self.nginx, NGINX_TARGET, requests, per_second=STEADY_PER_SECOND)
        with ExitStack() as ends:
            agent, sink = self.start(ends)
            before_ns = agent_cpu_ns(agent)
            _, wall_ns = run()
            wait_for_spans(sink, requests)
            used_ms = (agent_cpu_ns(agent) - before_ns) / 1e6
            agent.stop()
            accounts = read_accounts(agent.messages)
        print(f"\nSteady: {requests / wall_ns * 1e9:,.0f} requests/s for {STEADY_SECONDS} s")
        print(f"  {accounts.began} requests, {sink.span_count} spans arrived, lost: {accounts.losses or 'none'}")
        print(f"  agent (probe + exporter): {used_ms / sink.span_count * 10_000:.0f} ms CPU per 10,000 requests")

    def flood(self) -> None:
        with ExitStack() as ends:
            agent, sink = self.start(ends)
            per_second = run_wrk(self.nginx, NGINX_TARGET, seconds=FLOOD_SECONDS)
            wait_for_spans(sink, round(per_second * FLOOD_SECONDS))
            agent.stop()
            accounts = read_accounts(agent.messages)
        print(f"\nFlood: {per_second:,.0f} requests/s for {FLOOD_SECONDS} s, as fast as wrk and nginx go beside it")
        print(f"  {accounts.began} requests, {sink.span_count} spans arrived, lost: {accounts.losses or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["overhead", "odd", "parents", "tls"], help="one part alone")
    parser.add_argument(
        "--against", metavar="COMMIT", help="only: what the hooks cost, beside those of an older commit"
    )
    arguments = parser.parse_args()
    rounds = arguments.rounds
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs")
    if arguments.against:
        fast_lane.report(arguments.against, rounds)
    elif arguments.only == "odd":
        odd_traffic.report(rounds)
    elif arguments.only == "parents":
        parents.report(rounds)
    elif arguments.only == "tls":
        with tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-") as folder:
            tls.report(Path(folder), rounds)
    else:
        measure(rounds, is_overhead_alone=bool(arguments.only))


def measure(rounds: int, *, is_overhead_alone: bool) -> None:
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-")))
        nginx = ends.enter_context(plain_nginx(folder / "nginx"))
        files = ends.enter_context(serving("http.server", folder / "files"))
        bench = Bench(folder, nginx, files)
        if is_overhead_alone:
            bench.overhead(rounds)
            return
        bench.first_span(min(rounds, 3))
        bench.overhead(rounds)
        bench.memory()
        bench.steady()
        bench.flood()
        tls.report(folder, rounds)
    odd_traffic.report(rounds)
    parents.report(rounds)
    sampling.report()
    spans.report()
    measurements.report()


if __name__ == "__main__":
    main()
