"""What it costs a service that its calls are linked with the requests that caused them: links on beside links off.

In:   how many rounds
Out:  a table on standard output
Owns: the services and the agents that it starts
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.bench.processes import cpu_of_service_ns
from tests.bench.rounds import NGINX_TARGET, median, no_processor_sleeps, wrk
from tests.end_to_end.agent import running_agent
from tests.end_to_end.sink import http_sink
from tests.services.calling import CallingService, calling_service
from tests.services.calling_go import go_calling_service
from tests.services.servers import Running, plain_nginx, proxying

STYLES = ("uvicorn", "uvicorn-uvloop", "aiohttp", "gunicorn-gthread", "gunicorn-gevent")
OFF, ON = "off", "normal"
REQUESTS, AT_ONCE = 200, 20  # of each kind of calls that the service makes
_names = count()


@dataclass(frozen=True)
class _Asked:
    pid: int
    port: int
    ask: Callable[[], int]  # returns how many requests that were


def report(rounds: int) -> None:
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-")))
        print(f"\nLinks of calls: CPU of the service, us a request, medians of {rounds} rounds")
        print(f"{'':30}{'off':>10}{'on':>10}{'ratio':>8}{'from-to':>14}")
        for style in STYLES:
            with calling_service(style, folder / style) as service:
                _row(style, folder / style, _of_calls(service), rounds)
        with go_calling_service(folder / "go") as service:
            _row("go", folder / "go", _of_calls(service), rounds)
        ends.enter_context(no_processor_sleeps())
        with plain_nginx(folder / "behind") as behind:
            for keep_alive, name in ((True, "nginx, upstream kept alive"), (False, "nginx, upstream fresh")):
                with proxying(folder / name, behind, keep_alive=keep_alive) as proxy:
                    _row(name, folder / name, _Asked(proxy.pid, proxy.port, _by_wrk(proxy)), rounds)


def _row(name: str, folder: Path, asked: _Asked, rounds: int) -> None:
    asked.ask()
    used: dict[str, list[float]] = {OFF: [], ON: []}
    for number in range(rounds):
        for how in (OFF, ON) if number % 2 else (ON, OFF):
            used[how].append(_with_agent(folder.with_name(f"{folder.name}-{number}-{how}"), how, asked))
    ratios = [on / off for off, on in zip(used[OFF], used[ON], strict=True)]
    print(
        f"{name:30}{median(used[OFF]):10.1f}{median(used[ON]):10.1f}{median(ratios):8.2f}"
        f"{min(ratios):8.2f}-{max(ratios):.2f}"
    )


def _with_agent(folder: Path, how: str, asked: _Asked) -> float:
    with ExitStack() as ends:
        sink = ends.enter_context(http_sink())
        sink.keeps_spans = False
        settings = {
            "OTEL_EBPF_OPEN_PORT": str(asked.port),
            "OTEL_EBPF_PARENTS": how,
            "OTEL_EBPF_CACHE_DIR": str(folder.parent / "cache"),
        }
        agent = ends.enter_context(running_agent(folder, sink, is_ended_by_test=True, **settings))
        before = cpu_of_service_ns(asked.pid)
        count = asked.ask()
        used = cpu_of_service_ns(asked.pid) - before
        agent.stop()
    return used / 1000 / count


def _of_calls(service: CallingService) -> _Asked:
    def ask() -> int:
        service.ask(f"bench{next(_names)}-", REQUESTS, AT_ONCE)
        return REQUESTS * len(service.kinds)

    return _Asked(service.process.pid, service.port, ask)


def _by_wrk(proxy: Running) -> Callable[[], int]:
    run = wrk(proxy, NGINX_TARGET)
    return lambda: run()[0]
