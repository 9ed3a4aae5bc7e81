"""What reading TLS costs the servers: throughput and CPU, by form of uprobes, in interleaved rounds; and what the programs
took of that by the kernel's own account, the load generator's part included, which maps the same library.

In:   how many rounds
Out:  a table on standard output
Owns: the servers and the agents that it starts
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from otel_ebpf.probe.uprobes import UprobeForm, available_forms
from tests.bench.kernel_time import KernelTime
from tests.bench.rounds import Load, Sample, median, wrk
from tests.end_to_end.agent import running_agent
from tests.end_to_end.sink import http_sink
from tests.services.plan import make_call
from tests.services.servers import serving

SERVERS = ("nginx-tls", "uvicorn-asyncio-tls", "uvicorn-uvloop-tls", "node-tls")
TARGET = make_call("bench", "GET", 200, 1000).target
PLAIN_ONLY = "TLS off"
_AGENT = [sys.executable, str(Path(__file__).with_name("agent_of_form.py"))]


class Watched(NamedTuple):
    sample: Sample
    hooks_us: float  # a request
    hooks_runs: float


def report(folder: Path, rounds: int) -> None:
    forms = list(available_forms())
    names = [PLAIN_ONLY, *(form.name.lower() for form in forms)]
    with ExitStack() as ends:
        servers = [ends.enter_context(serving(name, folder / name)) for name in SERVERS]
        loads = [Load(name, server, wrk(server, TARGET)) for name, server in zip(SERVERS, servers, strict=True)]
        without: dict[str, list[Sample]] = {name: [] for name in SERVERS}
        watched: dict[tuple[str, str], list[Watched]] = {(name, how): [] for name in SERVERS for how in names}
        ports = ",".join(str(server.port) for server in servers)
        for number in range(rounds):
            for load in loads:
                without[load.name].append(load.sample())
            for how in names:
                for load, seen in _with_agent(folder / f"tls-{number}-{how}", how, forms, ports, loads):
                    watched[load.name, how].append(seen)
    print(f"\nTLS: 8 keep-alive connections (wrk), median of {rounds} interleaved rounds")
    print(
        f"{'':22}{'agent':10}{'throughput':>12}{'server CPU, us a request':>28}{'added':>8}{'hooks, us':>11}{'runs':>7}"
    )
    for name in SERVERS:
        cpu = median([sample.server_cpu_us for sample in without[name]])
        print(f"{name:22}{'none':10}{'':12}{cpu:28.1f}")
        for how in names:
            seen = watched[name, how]
            pairs = list(zip(without[name], [one.sample for one in seen], strict=True))
            throughput = median([off.wall_us / on.wall_us for off, on in pairs])
            cpu = median([on.server_cpu_us for _, on in pairs])
            added = median([on.server_cpu_us - off.server_cpu_us for off, on in pairs])
            hooks, runs = median([one.hooks_us for one in seen]), median([one.hooks_runs for one in seen])
            print(f"{'':22}{how:10}{throughput:12.2f}{cpu:28.1f}{added:8.1f}{hooks:11.1f}{runs:7.1f}")


def _with_agent(
    folder: Path, how: str, forms: list[UprobeForm], ports: str, loads: list[Load]
) -> list[tuple[Load, Watched]]:
    with ExitStack() as ends:
        sink = ends.enter_context(http_sink())
        sink.keeps_spans = False
        agent = ends.enter_context(
            running_agent(
                folder,
                sink,
                command=[*_AGENT, forms[0].name if how == PLAIN_ONLY else how],
                is_ended_by_test=True,
                OTEL_EBPF_OPEN_PORT=ports,
                OTEL_EBPF_TLS="off" if how == PLAIN_ONLY else "auto",
                OTEL_EBPF_CACHE_DIR=str(folder.parent / "cache"),
            )
        )
        samples = [load.sample() for load in loads]
        seen: list[tuple[Load, Watched]] = []
        with KernelTime() as account:
            for load, sample in zip(loads, samples, strict=True):
                before = account.of(agent.probe_pid)
                requests, _ = load.run()
                runs = account.of(agent.probe_pid).since(before)
                seen.append((load, Watched(sample, runs.ns / requests / 1000, runs.count / requests)))
        agent.stop()
        return seen
