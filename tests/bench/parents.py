"""What it costs a service that its calls are linked with the requests that caused them: links on beside links off; and
what the programs take of a request by the kernel's own account.

In:   how many rounds
Out:  a table on standard output
Owns: the services and the agents that it starts
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.bench.kernel_time import KernelTime
from tests.bench.processes import cpu_of_service_ns
from tests.bench.rounds import NGINX_TARGET, median, no_processor_sleeps, wrk
from tests.end_to_end.agent import running_agent
from tests.end_to_end.sink import http_sink
from tests.services.calling import CallingService, calling_service
from tests.services.calling_go import go_calling_service
from tests.services.calling_node import NODE_BY_NUMBERS, node_calling_service
from tests.services.servers import Running, plain_nginx, proxying

STYLES = ("uvicorn", "uvicorn-uvloop", "aiohttp", "gunicorn-gthread", "gunicorn-gevent")
OFF, ON = {"OTEL_EBPF_PARENTS": "off"}, {"OTEL_EBPF_PARENTS": "normal"}
NODE_MODES = ("ids", "promises")
NODE_KINDS = {"http": (*NODE_BY_NUMBERS, "await", "promise", "parallel"), "fetch": ("fetch", "fetch-all")}
REQUESTS, AT_ONCE = 200, 20  # of each kind of calls that the service makes
_names = count()


@dataclass(frozen=True)
class _Asked:
    pid: int
    port: int
    ask: Callable[[], int]  # returns how many requests that were


@dataclass
class _Used:
    """By a request."""

    cpu_us: list[float] = field(default_factory=list)  # of the service, round by round
    hooks_us: float = 0.0  # by the kernel's own account, once


def report(rounds: int) -> None:
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-")))
        print(
            f"\nLinks of calls: us a request; CPU of the service, medians of {rounds} rounds; hooks by the kernel's account"
        )
        print(f"{'':30}{'CPU off':>10}{'CPU on':>10}{'ratio':>8}{'from-to':>14}{'hooks off':>11}{'hooks on':>10}")
        for style in STYLES:
            with calling_service(style, folder / style) as service:
                _row(style, folder / style, _of_calls(service), rounds)
        with go_calling_service(folder / "go") as service:
            _row("go", folder / "go", _of_calls(service), rounds)
        with node_calling_service(folder / "node") as service:
            for mode in NODE_MODES:
                for client, kinds in NODE_KINDS.items():
                    name, on = f"node, {client}: {mode}", {**ON, "OTEL_EBPF_NODE_PARENTS": mode}
                    _row(name, folder / f"node-{client}-{mode}", _of_calls(service, kinds), rounds, on)
        ends.enter_context(no_processor_sleeps())
        with plain_nginx(folder / "behind") as behind:
            for keep_alive, name in ((True, "nginx, upstream kept alive"), (False, "nginx, upstream fresh")):
                with proxying(folder / name, behind, keep_alive=keep_alive) as proxy:
                    _row(name, folder / name, _Asked(proxy.pid, proxy.port, _by_wrk(proxy)), rounds)


def _row(name: str, folder: Path, asked: _Asked, rounds: int, on: dict[str, str] = ON) -> None:
    asked.ask()
    used = _Used(), _Used()
    for number in range(rounds):
        for is_on in (False, True) if number % 2 else (True, False):
            agents = folder.with_name(f"{folder.name}-{number}-{'on' if is_on else 'off'}")
            _with_agent(agents, on if is_on else OFF, asked, used[is_on])
    off, with_links = (median(one.cpu_us) for one in used)
    ratios = [on_us / off_us for off_us, on_us in zip(*(one.cpu_us for one in used), strict=True)]
    print(
        f"{name:30}{off:10.1f}{with_links:10.1f}{median(ratios):8.2f}{min(ratios):8.2f}-{max(ratios):.2f}"
        f"{used[0].hooks_us:13.1f}{used[1].hooks_us:10.1f}",
        flush=True,
    )


def _with_agent(folder: Path, settings: dict[str, str], asked: _Asked, used: _Used) -> None:
    with ExitStack() as ends:
        sink = ends.enter_context(http_sink())
        sink.keeps_spans = False
        settings = {
            "OTEL_EBPF_OPEN_PORT": str(asked.port),
            "OTEL_EBPF_CACHE_DIR": str(folder.parent / "cache"),
            **settings,
        }
        agent = ends.enter_context(running_agent(folder, sink, is_ended_by_test=True, **settings))
        before_ns = cpu_of_service_ns(asked.pid)
        count = asked.ask()
        used.cpu_us.append((cpu_of_service_ns(asked.pid) - before_ns) / 1000 / count)
        if not used.hooks_us:
            with KernelTime() as account:
                before = account.of(agent.probe_pid)
                count = asked.ask()
                used.hooks_us = account.of(agent.probe_pid).since(before).ns / 1000 / count
        agent.stop()


def _of_calls(service: CallingService, kinds: tuple[str, ...] = ()) -> _Asked:
    kinds = kinds or service.kinds

    def ask() -> int:
        service.ask(f"bench{next(_names)}-", REQUESTS, AT_ONCE, kinds)
        return REQUESTS * len(kinds)

    return _Asked(service.process.pid, service.port, ask)


def _by_wrk(proxy: Running) -> Callable[[], int]:
    run = wrk(proxy, NGINX_TARGET)
    return lambda: run()[0]
