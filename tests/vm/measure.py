"""What the agent costs in instructions: the part of `make bench-vm` that runs in a guest whose clock counts them.

In:   which hooks, what to measure
Out:  one line of JSON for each figure, on standard output
Owns: the servers, agents and the sink that it starts

One virtual processor, and a nanosecond of its clock is an instruction: CPU time, as the kernel accounts it to processes and
to BPF programs, is a number of instructions, user's and kernel's.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.kernel_time import KernelTime
from tests.bench.odd_traffic import wait_for_spans
from tests.bench.processes import cpu_of_service_ns, memory
from tests.bench.rounds import FILE_TARGET, NGINX_TARGET, build_ping_pong, ping_pong
from tests.end_to_end.agent import Agent, running_agent
from tests.end_to_end.sink import Sink, http_sink
from tests.services.bytecode import SETTING as BYTECODE
from tests.services.processes import VENV_BIN
from tests.services.servers import Running, plain_nginx, proxying, serving

NGINX, FILES = "nginx", "http.server"
PROXY = "nginx before nginx"
REQUESTS = {NGINX: 4_000, FILES: 500, PROXY: 2_000}
PARENTS = ("off", "normal")
REPEATS = 3
IDLE_SECONDS = 10
FUNCTIONS_TOLD = 30
SAMPLED_AGENT = Path(__file__).with_name("sampled_agent.py")
CGROUPS = Path("/sys/fs/cgroup")


def tell(what: str, value: float, **more: object) -> None:
    print(json.dumps({"what": what, "value": value, **more}), flush=True)


class Used:
    """CPU time since it was made, of the services and of the client that has ended meanwhile.

    Of the client, too: what a process does behind the wake-up of another one, until it gives way, is charged to the one
    that was woken (rq_clock_skip_update in kernel/sched/core.c), and hooks on sending are behind it.
    """

    def __init__(self, *servers: Running) -> None:
        self._servers = servers
        self._before = self._now()
        self._found: tuple[int, int] | None = None

    def _now(self) -> tuple[int, int]:
        client = resource.getrusage(resource.RUSAGE_CHILDREN)
        of_servers = sum(cpu_of_service_ns(server.pid) for server in self._servers)
        return cpu_of_service_ns(self._servers[0].pid), of_servers + round((client.ru_utime + client.ru_stime) * 1e9)

    def stop(self) -> None:
        server, everybody = self._now()
        self._found = server - self._before[0], everybody - self._before[1]

    def tell(self, name: str, requests: int, **more: object) -> None:
        if self._found is None:
            self.stop()
        assert self._found is not None
        tell(f"{name}: server", self._found[0] / requests, **more)
        tell(f"{name}: all", self._found[1] / requests, **more)


class Bench:
    """The servers and what is asked of them."""

    def __init__(self, folder: Path, backend: str, ends: ExitStack) -> None:
        self.folder = folder
        self.backend = backend
        self.servers: dict[str, Running] = {
            NGINX: ends.enter_context(plain_nginx(folder / NGINX)),
            FILES: ends.enter_context(serving(FILES, folder / FILES)),
        }
        self.client = client = build_ping_pong(folder)
        targets = {NGINX: NGINX_TARGET, FILES: FILE_TARGET}
        self.loads: dict[str, Callable[[], object]] = {
            name: ping_pong(client, server, targets[name], REQUESTS[name]) for name, server in self.servers.items()
        }
        self.starts = 0

    @contextmanager
    def agent(
        self, command: list[str] | None = None, *, cache: Path | None = None, **settings: str
    ) -> Iterator[tuple[Agent, Sink]]:
        """With the bytecode that the host has compiled, unless another cache is named."""
        self.starts += 1
        with http_sink() as sink:
            sink.keeps_spans = False
            settings = {
                "OTEL_EBPF_OPEN_PORT": ",".join(str(server.port) for server in self.servers.values()),
                "OTEL_EBPF_CACHE_DIR": str(cache or os.environ[BYTECODE]),
                "OTEL_EBPF_SOCKET_BACKEND": self.backend,
                "OTEL_METRIC_EXPORT_INTERVAL": "3600000",  # metrics are kept, and sent when nothing is measured
                **settings,
            }
            folder = self.folder / f"agent-{self.starts}"
            with running_agent(folder, sink, command=command, is_ended_by_test=True, **settings) as agent:
                yield agent, sink
                agent.stop()

    def servers_cost(self) -> None:
        """Without the agent. Once to warm up, then as often as told."""
        for name, server in self.servers.items():
            self.loads[name]()
            for _ in range(REPEATS):
                used = Used(server)
                self.loads[name]()
                used.tell(name, REQUESTS[name], arm="without")

    def starts_cost(self) -> None:
        """From the command until it says that it watches; the compiler and all other children are in it."""
        for kind in ("cold", "warm"):
            group = CGROUPS / f"agent-{kind}"
            group.mkdir()
            into_group = f'echo $$ > {group}/cgroup.procs && exec "$0" run'
            command = ["sh", "-c", into_group, str(VENV_BIN / "otel-ebpf")]
            with self.agent(command, cache=self.folder / "cache") as (agent, _):
                tell(f"start, {kind}", used_ns_of(group))
                if kind == "warm":
                    tell_memory(agent, "after start")

    def agents_cost(self) -> None:
        with self.agent() as (agent, sink):
            for name, server in self.servers.items():
                for number in range(1 + REPEATS):
                    spans, before, of_server = sink.span_count, threads_ns(agent), Used(server)
                    self.loads[name]()
                    of_server.stop()
                    wait_for_spans(sink, spans + REQUESTS[name])
                    used = since(before, threads_ns(agent))
                    assert spans + REQUESTS[name] == sink.span_count, "what was lost costs less"
                    if number:  # the first one warms up
                        of_server.tell(name, REQUESTS[name])
                        tell(f"{name}: agent", sum(used.values()) / REQUESTS[name])
                        for thread, used_ns in used.items():
                            tell(f"{name}: agent, {thread}", used_ns / REQUESTS[name])
            before = threads_ns(agent)
            time.sleep(IDLE_SECONDS)
            tell("agent, idle, a second", sum(since(before, threads_ns(agent)).values()) / IDLE_SECONDS)
            tell_memory(agent, "after load")
            for name in self.servers:
                self.tell_programs(agent, name, self.loads[name], REQUESTS[name])

    def parents_cost(self) -> None:
        """nginx hands on what it is asked, over connections that are kept alive: without links, and with them."""
        with proxying(self.folder / "proxy", self.servers[NGINX], keep_alive=True) as proxy:
            load = ping_pong(self.client, proxy, NGINX_TARGET, REQUESTS[PROXY])
            for parents in PARENTS:
                name = f"{PROXY}, links {parents}"
                with self.agent(OTEL_EBPF_OPEN_PORT=str(proxy.port), OTEL_EBPF_PARENTS=parents) as (agent, sink):
                    for number in range(1 + REPEATS):
                        used = Used(proxy, self.servers[NGINX])
                        load()
                        if number:  # the first one warms up
                            used.tell(name, REQUESTS[PROXY])
                        wait_for_spans(sink, (number + 1) * 2 * REQUESTS[PROXY])
                    self.tell_programs(agent, name, load, REQUESTS[PROXY])

    def tell_programs(self, agent: Agent, name: str, load: Callable[[], object], count: int) -> None:
        with KernelTime() as kernel:
            before = kernel.by_program(agent.probe_pid)
            load()
            for program, runs in kernel.by_program(agent.probe_pid).items():
                found = runs.since(before[program])
                if found.count:
                    tell(f"{name}: BPF {program}", found.ns / count, runs=found.count / count)

    def functions_cost(self) -> None:
        """Of the exporter's main thread: the share of each Python function."""
        Path("/proc/sys/kernel/perf_event_paranoid").write_text("-1")
        for name in self.servers:
            file = self.folder / f"functions-{name}"
            command = [str(VENV_BIN / "python"), str(SAMPLED_AGENT), str(file)]
            with self.agent(command) as (_, sink):
                for number in range(REPEATS):
                    self.loads[name]()
                    wait_for_spans(sink, (number + 1) * REQUESTS[name])
            seen = [line.split(None, 1) for line in file.read_text().splitlines()]
            in_all = sum(int(count) for count, _ in seen)
            for count, function in seen[:FUNCTIONS_TOLD]:
                tell(f"{name}: function {function}", int(count) / in_all)


def threads_ns(agent: Agent) -> dict[str, int]:
    """By process and name; main threads first."""
    found: dict[str, int] = {}
    for process, pid in (("probe", agent.probe_pid), ("exporter", agent.exporter_pid)):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
            kind = "main" if int(task.name) == pid else "others"
            name = f"{process}, {kind}"
            found[name] = found.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return found


def since(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {name: ns - before.get(name, 0) for name, ns in now.items()}


def used_ns_of(group: Path) -> int:
    """By all that are or were in this control group."""
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) * 1000


def tell_memory(agent: Agent, when: str) -> None:
    found = {"probe": memory(agent.probe_pid), "exporter": memory(agent.exporter_pid)}
    tell("memory, RSS, MB", sum(used.rss_mb for used in found.values()), when=when)
    tell("memory, PSS, MB", sum(used.pss_mb for used in found.values()), when=when)
    tell("BPF maps, MB", sum(map_bytes(agent.probe_pid).values()) / 1e6, when=when)


def map_bytes(pid: int) -> dict[int, int]:
    """Memory of each map that this process holds, as the kernel accounts it."""
    found = {}
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        if "map_id" in fields:
            found[int(fields["map_id"])] = int(fields["memlock"])
    return found


PARTS: dict[str, Callable[[Bench], None]] = {
    "without": Bench.servers_cost,
    "start": Bench.starts_cost,
    "agent": Bench.agents_cost,
    "functions": Bench.functions_cost,
    "parents": Bench.parents_cost,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("backend")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-") as folder, ExitStack() as ends:
        bench = Bench(Path(folder), asked.backend, ends)
        for part in asked.parts:
            PARTS[part](bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
