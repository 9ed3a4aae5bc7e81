"""What reading TLS costs the servers: throughput and CPU with the agent and without, in interleaved rounds.

In:   how many rounds
Out:  a table on standard output
Owns: the servers that it starts
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from tests.bench.rounds import Load, Sample, header, row, wrk
from tests.services.plan import make_call
from tests.services.servers import serving

SERVERS = ("nginx-tls", "uvicorn-asyncio-tls", "uvicorn-uvloop-tls", "node-tls")
TARGET = make_call("bench", "GET", 200, 1000).target


def report(folder: Path, rounds: int, watching: Callable[[list[int]], AbstractContextManager[object]]) -> None:
    """`watching` runs an agent on these ports."""
    with ExitStack() as ends:
        servers = [ends.enter_context(serving(name, folder / name)) for name in SERVERS]
        loads = [
            Load(f"{name} (wrk)", server, wrk(server, TARGET)) for name, server in zip(SERVERS, servers, strict=True)
        ]
        without: dict[str, list[Sample]] = {load.name: [] for load in loads}
        with_agent: dict[str, list[Sample]] = {load.name: [] for load in loads}
        for _ in range(rounds):
            for load in loads:
                without[load.name].append(load.sample())
            with watching([server.port for server in servers]):
                for load in loads:
                    with_agent[load.name].append(load.sample())
    print(f"\nTLS, 8 keep-alive connections, median of {rounds} interleaved rounds\n{header()}")
    for load in loads:
        print(row(load.name, without[load.name], with_agent[load.name]))
