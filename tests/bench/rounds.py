"""Throughput and server CPU with and without the agent, in interleaved rounds.

In:   servers, how many rounds
Out:  one Sample for each (load, with or without the agent, round)
Owns: the loads; what keeps processors awake

Interleaved, because the machine's speed drifts by more than the agent costs; of the rounds' ratios the median is told, and
how far they lie apart. No processor sleeps meanwhile, with the agent or without: to wake up takes longer than the hooks, and
an agent that kept one awake would make the server look faster with it.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import cpu_of_service_ns
from tests.services.load import run_wrk
from tests.services.servers import Running, program

NGINX_TARGET = "/bench"
FILE_TARGET = "/1000.bin?id=bench"
PING_PONG_REQUESTS = {"nginx": 20_000, "http.server": 1_500}
WRK_SECONDS = 2


@dataclass(frozen=True)
class Sample:
    requests: int
    wall_us: float  # per request, or per request and connection under wrk
    server_cpu_us: float


@dataclass(frozen=True)
class Load:
    name: str
    server: Running
    run: Callable[[], tuple[int, int]]  # requests, wall nanoseconds

    def sample(self) -> Sample:
        before_ns = cpu_of_service_ns(self.server.pid)
        requests, wall_ns = self.run()
        cpu_ns = cpu_of_service_ns(self.server.pid) - before_ns
        return Sample(requests, wall_ns / requests / 1000, cpu_ns / requests / 1000)


def build_ping_pong(folder: Path) -> Path:
    source, client = Path(__file__).with_name("pingpong.c"), folder / "pingpong"
    subprocess.run([program("gcc"), "-O2", "-o", str(client), str(source)], check=True)
    return client


def ping_pong(
    client: Path, server: Running, target: str, requests: int, *, per_second: int = 0
) -> Callable[[], tuple[int, int]]:
    """As fast as one connection goes, or at a steady rate."""
    command = [str(client), str(server.port), target, str(requests), str(per_second)]
    return lambda: (requests, int(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout))


def wrk(server: Running, target: str) -> Callable[[], tuple[int, int]]:
    def run() -> tuple[int, int]:
        per_second = run_wrk(server, target, seconds=WRK_SECONDS, connections=8)
        return round(per_second * WRK_SECONDS), WRK_SECONDS * 1_000_000_000

    return run


def loads(folder: Path, nginx: Running, files: Running) -> list[Load]:
    client = build_ping_pong(folder)
    return [
        Load("nginx, 1 connection", nginx, ping_pong(client, nginx, NGINX_TARGET, PING_PONG_REQUESTS["nginx"])),
        Load("nginx, 8 connections (wrk)", nginx, wrk(nginx, NGINX_TARGET)),
        Load("http.server", files, ping_pong(client, files, FILE_TARGET, PING_PONG_REQUESTS["http.server"])),
    ]


_BUSY = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"


@contextmanager
def no_processor_sleeps() -> Iterator[None]:
    """On each something runs that gives way to everything else."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def spread(ratios: list[float]) -> str:
    """The median, and from where to where."""
    return f"{median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def median(values: list[float]) -> float:
    return statistics.median(values)


def row(name: str, without: list[Sample], with_agent: list[Sample]) -> str:
    wall = [(off.wall_us, on.wall_us) for off, on in zip(without, with_agent, strict=True)]
    cpu = [(off.server_cpu_us, on.server_cpu_us) for off, on in zip(without, with_agent, strict=True)]
    return f"{name:28}{_columns(wall)}  {_columns(cpu)}"


def _columns(pairs: list[tuple[float, float]]) -> str:
    off, on = (median(list(column)) for column in zip(*pairs, strict=True))
    return f"{off:9.1f}{on:9.1f}  {spread([one_on / one_off for one_off, one_on in pairs]):20}"


def header() -> str:
    columns = f"{'without':>9}{'with':>9}  {' ratio (from-to)':20}"
    return f"{'':28}{'wall µs a request':^40}  {'server CPU µs a request':^40}\n{'':28}{columns}  {columns}"
