"""How many calls of Python services are said to belong to the request that caused them: styles, clients, interpreters.

`python -m tests.bench.right_parents --python ~/.pyenv/versions/3.9.18/bin/python --requests 500 [STYLE ...]`

In:   interpreters that have the frameworks; styles as tests/services/calling.py names them, by default all
Out:  a table on standard output: right, unknown and wrong calls
Owns: the services and the agents that it starts
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.agent import running_agent
from tests.end_to_end.parentage import asked_and_judged
from tests.end_to_end.sink import http_sink
from tests.services.calling import all_styles, calling_service
from tests.services.processes import VENV_BIN

SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", action="append", help="an interpreter; may be given more than once")
    parser.add_argument("--requests", type=int, default=500, help="of each style, of all kinds together")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--parents", default="normal", help="OTEL_EBPF_PARENTS")
    parser.add_argument("styles", nargs="*")
    arguments = parser.parse_args()
    print(f"{'':12}{'':34}{'right':>8}{'unknown':>9}{'wrong':>7}{'no span':>9}", flush=True)
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-parents-")))
        os.chmod(folder, 0o755)
        for python in arguments.python or [str(VENV_BIN / "python")]:
            for number, style in enumerate(arguments.styles or all_styles()):
                _row(folder / f"{number}", python, style, arguments)


def _row(folder: Path, python: str, style: str, arguments: argparse.Namespace) -> None:
    name = Path(python).parent.parent.name[:11]
    with ExitStack() as ends:
        try:
            service = ends.enter_context(calling_service(style, folder, python))
        except AssertionError:
            print(f"{name:12}{style:34}  does not start: {_last_line(folder / 'calling')}", flush=True)
            return
        sink = ends.enter_context(http_sink())
        settings = {
            "OTEL_EBPF_OPEN_PORT": str(service.port),
            "OTEL_EBPF_PARENTS": arguments.parents,
            "OTEL_EBPF_CACHE_DIR": str(folder.parent / "cache"),
        }
        agent = ends.enter_context(running_agent(folder / "agent", sink, is_ended_by_test=True, **settings))
        each = -(-arguments.requests // len(service.kinds))
        verdict = asked_and_judged(service, sink, f"{folder.name}-", each, arguments.at_once)
        agent.stop()
    counts = f"{verdict.right:8}{len(verdict.unknown):9}{len(verdict.wrong):7}{len(verdict.missing):9}"
    print(f"{name:12}{style:34}{counts}", flush=True)
    for path, said in list(verdict.wrong.items())[:SHOWN]:
        print(f"{'':12}wrong: {path} under {said}", flush=True)
    for what, paths in (("unknown", verdict.unknown), ("no span", verdict.missing)):
        if paths:
            print(f"{'':12}{what}: {' '.join(paths[:SHOWN])}", flush=True)
    for line in agent.messages.splitlines():
        if "no parent" in line:
            print(f"{'':12}{line}", flush=True)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it says nothing"


if __name__ == "__main__":
    main()
