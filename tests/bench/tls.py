"""What reading TLS costs the servers: throughput and CPU, by form of uprobes, in interleaved rounds.

In:   how many rounds
Out:  a table on standard output
Owns: the servers and the agents that it starts
"""

import sys
from contextlib import ExitStack
from pathlib import Path

from otel_ebpf.probe.uprobes import UprobeForm, available_forms
from tests.bench.rounds import Load, Sample, median, wrk
from tests.end_to_end.agent import running_agent
from tests.end_to_end.sink import http_sink
from tests.services.plan import make_call
from tests.services.servers import serving

SERVERS = ("nginx-tls", "uvicorn-asyncio-tls", "uvicorn-uvloop-tls", "node-tls")
TARGET = make_call("bench", "GET", 200, 1000).target
PLAIN_ONLY = "TLS off"
_AGENT = [sys.executable, str(Path(__file__).with_name("agent_of_form.py"))]


def report(folder: Path, rounds: int) -> None:
    forms = list(available_forms())
    names = [PLAIN_ONLY, *(form.name.lower() for form in forms)]
    with ExitStack() as ends:
        servers = [ends.enter_context(serving(name, folder / name)) for name in SERVERS]
        loads = [Load(name, server, wrk(server, TARGET)) for name, server in zip(SERVERS, servers, strict=True)]
        without: dict[str, list[Sample]] = {name: [] for name in SERVERS}
        watched: dict[tuple[str, str], list[Sample]] = {(name, how): [] for name in SERVERS for how in names}
        ports = ",".join(str(server.port) for server in servers)
        for number in range(rounds):
            for load in loads:
                without[load.name].append(load.sample())
            for how in names:
                for load, sample in _with_agent(folder / f"tls-{number}-{how}", how, forms, ports, loads):
                    watched[load.name, how].append(sample)
    print(f"\nTLS: 8 keep-alive connections (wrk), median of {rounds} interleaved rounds")
    print(f"{'':22}{'agent':10}{'throughput':>12}{'server CPU, us a request':>28}{'added':>8}")
    for name in SERVERS:
        cpu = median([sample.server_cpu_us for sample in without[name]])
        print(f"{name:22}{'none':10}{'':12}{cpu:28.1f}")
        for how in names:
            pairs = list(zip(without[name], watched[name, how], strict=True))
            throughput = median([off.wall_us / on.wall_us for off, on in pairs])
            cpu = median([on.server_cpu_us for _, on in pairs])
            added = median([on.server_cpu_us - off.server_cpu_us for off, on in pairs])
            print(f"{'':22}{how:10}{throughput:12.2f}{cpu:28.1f}{added:8.1f}")


def _with_agent(
    folder: Path, how: str, forms: list[UprobeForm], ports: str, loads: list[Load]
) -> list[tuple[Load, Sample]]:
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
        samples = [(load, load.sample()) for load in loads]
        agent.stop()
        return samples
