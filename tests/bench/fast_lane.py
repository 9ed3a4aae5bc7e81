"""What the hooks cost for a plain keep-alive request, beside an older commit of this project.

In:   a commit, how many rounds
Out:  figures on standard output
Owns: the older commit's tree, in a temporary folder

A part of `make bench` that is asked for: BENCH_ARGS="--against COMMIT". Both agents run from their own trees with their own
programs, one after the other on one nginx, and change places after each round.
"""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.kernel_time import KernelTime, Runs
from tests.bench.rounds import NGINX_TARGET, build_ping_pong, median, no_processor_sleeps, ping_pong, spread
from tests.end_to_end.agent import running_agent
from tests.services.processes import CHECKOUT, VENV_BIN
from tests.services.servers import plain_nginx

REQUESTS = 20_000


def unpack(commit: str, folder: Path) -> Path:
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(CHECKOUT), "archive", commit], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def report(commit: str, rounds: int) -> None:
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-bench-")))
        trees = [unpack(commit, folder / "before"), CHECKOUT]
        nginx = ends.enter_context(plain_nginx(folder / "nginx"))
        run = ping_pong(build_ping_pong(folder), nginx, NGINX_TARGET, REQUESTS)
        kernel = ends.enter_context(KernelTime())
        ends.enter_context(no_processor_sleeps())

        def sample(which: int) -> Runs:
            settings = {
                "PYTHONPATH": str(trees[which]),
                "OTEL_EBPF_OPEN_PORT": str(nginx.port),
                "OTEL_EBPF_CACHE_DIR": str(folder / f"cache-{which}"),
                "OTEL_EBPF_TRACE_PRINTER": "json",
            }
            command = [str(VENV_BIN / "python"), "-m", "otel_ebpf", "run"]
            with running_agent(folder / "agent", command=command, is_ended_by_test=True, **settings) as agent:
                before = kernel.of(agent.probe_pid)
                run()
                runs = kernel.of(agent.probe_pid).since(before)
                agent.stop()
            return runs

        found: list[list[Runs]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                found[which].append(sample(which))
    print(f"\nHooks: µs of a plain keep-alive request on nginx and of its client's calls, {rounds} interleaved rounds")
    for name, runs in zip((commit, "this tree"), found, strict=True):
        each = [one.ns / 1000 / REQUESTS for one in runs]
        calls = median([one.count / REQUESTS for one in runs])
        print(f"  {name:12} {median(each):6.2f} ({min(each):.2f}-{max(each):.2f}), {calls:.1f} calls of all processes")
    print(f"  ratio        {spread([new.ns / old.ns for old, new in zip(*found, strict=True)])}")
