"""Throughput and server CPU with and without the agent, in interleaved rounds.

In:   servers, how many rounds
Out:  one Sample for each (load, with or without the agent, round)
Owns: the loads

Interleaved, because the machine's speed drifts by more than the agent costs; the median of the rounds' ratios is told.
"""

import statistics
import subprocess
from collections.abc import Callable
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


def median(values: list[float]) -> float:
    return statistics.median(values)


def row(name: str, without: list[Sample], with_agent: list[Sample]) -> str:
    wall = median([on.wall_us / off.wall_us for off, on in zip(without, with_agent, strict=True)])
    cpu = median([on.server_cpu_us / off.server_cpu_us for off, on in zip(without, with_agent, strict=True)])
    figures = [
        median([sample.wall_us for sample in without]),
        median([sample.wall_us for sample in with_agent]),
        wall,
        median([sample.server_cpu_us for sample in without]),
        median([sample.server_cpu_us for sample in with_agent]),
        cpu,
    ]
    shown = [f"{figure:9.1f}" if at not in (2, 5) else f"{figure:7.2f}" for at, figure in enumerate(figures)]
    return f"{name:28}" + " ".join(shown)


def header() -> str:
    pair = f"{'without':>9} {'with':>9} {'ratio':>7}"
    return f"{'':28}{'wall µs a request':^27} {'server CPU µs a request':^27}\n{'':28}{pair} {pair}"
