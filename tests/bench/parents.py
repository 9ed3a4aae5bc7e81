"""What it costs a Python service that its calls are linked with the requests that caused them: links on beside links off.

In:   how many rounds
Out:  a table on standard output
Owns: the services and the agents that it starts
"""

import tempfile
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from tests.bench.processes import cpu_of_service_ns
from tests.bench.rounds import median
from tests.end_to_end.agent import running_agent
from tests.end_to_end.sink import http_sink
from tests.services.calling import CallingService, calling_service

STYLES = ("uvicorn", "uvicorn-uvloop", "aiohttp", "gunicorn-gthread", "gunicorn-gevent")
OFF, ON = "off", "normal"
REQUESTS, AT_ONCE = 200, 20  # of each kind of calls that the service makes
_names = count()


def report(rounds: int) -> None:
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-")))
        print(f"\nLinks of Python's calls: CPU of the service, us a request, medians of {rounds} rounds")
        print(f"{'':18}{'off':>10}{'on':>10}{'ratio':>8}{'from-to':>14}")
        for style in STYLES:
            with calling_service(style, folder / style) as service:
                _ask(service)
                used: dict[str, list[float]] = {OFF: [], ON: []}
                for number in range(rounds):
                    for how in (OFF, ON) if number % 2 else (ON, OFF):
                        used[how].append(_with_agent(folder / f"{style}-{number}-{how}", how, service))
            ratios = [on / off for off, on in zip(used[OFF], used[ON], strict=True)]
            print(
                f"{style:18}{median(used[OFF]):10.0f}{median(used[ON]):10.0f}{median(ratios):8.2f}"
                f"{min(ratios):8.2f}-{max(ratios):.2f}"
            )


def _with_agent(folder: Path, how: str, service: CallingService) -> float:
    with ExitStack() as ends:
        sink = ends.enter_context(http_sink())
        sink.keeps_spans = False
        settings = {
            "OTEL_EBPF_OPEN_PORT": str(service.port),
            "OTEL_EBPF_PARENTS": how,
            "OTEL_EBPF_CACHE_DIR": str(folder.parent / "cache"),
        }
        agent = ends.enter_context(running_agent(folder, sink, is_ended_by_test=True, **settings))
        before = cpu_of_service_ns(service.process.pid)
        _ask(service)
        used = cpu_of_service_ns(service.process.pid) - before
        agent.stop()
    return used / 1000 / (REQUESTS * len(service.kinds))


def _ask(service: CallingService) -> None:
    service.ask(f"bench{next(_names)}-", REQUESTS, AT_ONCE)
