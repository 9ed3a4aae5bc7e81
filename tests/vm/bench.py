"""What the agent costs in instructions, on either kind of hooks: `make bench-vm`.

In:   a kernel's name, which hooks, which parts
Out:  tables on standard output; medians of what measure.py tells
Owns: nothing; see guest.py

One emulated processor that counts: what the host's neighbours do changes how long it takes, not what comes out.
"""

import argparse
import compileall
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from otel_ebpf.probe.programs import SocketBackend
from tests.services.bytecode import SETTING as BYTECODE
from tests.services.processes import CHECKOUT, VENV_BIN
from tests.vm.bytecode import compiled_for
from tests.vm.guest import GuestError, Machine, run_in_guest
from tests.vm.kernels import KERNELS, Kernel, KernelError, find_kernel
from tests.vm.suites import shown

TIMEOUT_SECONDS = 1500
PARTS = ("without", "start", "agent", "functions", "parents")
FEWEST_SHOWN = 100  # instructions a request
PROXY = "nginx before nginx"  # as in measure.py


class Row(NamedTuple):
    title: str
    what: str  # as measure.py names it
    unit: float = 1
    digits: int = 0


ROWS = (
    Row("nginx, keep-alive: server process, a request", "nginx: server"),
    Row("the same, and its client", "nginx: all"),
    Row("`python3 -m http.server`: server process", "http.server: server"),
    Row("the same, and its client", "http.server: all"),
    Row("agent, a request to nginx", "nginx: agent"),
    Row("agent, a request to http.server", "http.server: agent"),
    Row("nginx before nginx, kept alive: both, and their client, a request; links off", f"{PROXY}, links off: all"),
    Row("the same, links on", f"{PROXY}, links normal: all"),
    Row("agent, a second in which nothing happens", "agent, idle, a second"),
    Row("agent, start: nothing compiled before, 10⁹", "start, cold", 1e9, 2),
    Row("agent, start: bytecode in the cache, 10⁹", "start, warm", 1e9, 2),
    Row("memory of probe and exporter after load, RSS, MB", "memory, RSS, MB", 1, 1),
    Row("the same, PSS, MB", "memory, PSS, MB", 1, 1),
    Row("BPF maps, MB", "BPF maps, MB", 1, 1),
)

Found = dict[str, list[float]]


def measure(kernel: Kernel, backend: SocketBackend, parts: Iterable[str]) -> tuple[Found, Found]:
    """Without the agent, and with it."""
    command = [str(VENV_BIN / "python"), "-m", "tests.vm.measure", backend.value, *parts]
    with tempfile.NamedTemporaryFile() as log:
        with shown(Path(log.name)) as output:
            status = run_in_guest(
                kernel,
                command,
                timeout_seconds=TIMEOUT_SECONDS,
                environment={BYTECODE: str(compiled_for(kernel, backend))},
                output=output,
                machine=Machine(1, counts_instructions=True),
            )
        said = Path(log.name).read_text(errors="replace")
    if status:
        raise GuestError(f"the measurement ended with {status}; see above")
    found: tuple[Found, Found] = defaultdict(list), defaultdict(list)
    for line in said.splitlines():
        if line.startswith("{"):
            told: dict[str, Any] = json.loads(line)
            found[told.get("arm") != "without"][told["what"]].append(told["value"])
    return found


def number(values: list[float], row: Row) -> str:
    return f"{statistics.median(values) / row.unit:,.{row.digits}f}" if values else "-"


def table(without: Found, with_agent: dict[SocketBackend, Found]) -> str:
    columns = " | ".join(f"with, {backend.value}" for backend in with_agent)
    lines = [f"| instructions | without | {columns} |", "|---" * (2 + len(with_agent)) + "|"]
    for row in ROWS:
        bare = without.get(row.what, [])
        cells = [number(bare, row)]
        for found in with_agent.values():
            values = found.get(row.what, [])
            more = statistics.median(values) - statistics.median(bare) if values and bare else None
            cells.append(number(values, row) + ("" if more is None else f" ({more:+,.0f})"))
        if any(cell != "-" for cell in cells):
            lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def breakdown(found: Found) -> str:
    """What stands in no row: BPF programs, threads and Python functions, the dearest first."""
    known = {row.what for row in ROWS}
    lines = []
    for what, values in sorted(
        found.items(), key=lambda item: (item[0].split(" ", 2)[:2], -statistics.median(item[1]))
    ):
        if what in known:
            continue
        value = statistics.median(values)
        if " function " in what:
            lines.append(f"  {what:70}{value:10.1%}")
        elif value >= FEWEST_SHOWN:
            lines.append(f"  {what:70}{value:10,.0f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=KERNELS, default="6.1")
    parser.add_argument("--hooks", choices=[backend.value for backend in SocketBackend], help="these alone")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    asked = parser.parse_args()
    backends = [backend for backend in SocketBackend if asked.hooks in (None, backend.value)]
    without: Found = {}
    with_agent: dict[SocketBackend, Found] = {}
    compileall.compile_dir(CHECKOUT / "otel_ebpf", quiet=1)  # as pip leaves it: a guest writes nothing here
    try:
        kernel = find_kernel(asked.kernel)
        for backend in backends:
            print(f"measuring with {backend.value} hooks; this takes minutes", file=sys.stderr, flush=True)
            parts = [part for part in asked.only if part != "without" or not without]
            bare, with_agent[backend] = measure(kernel, backend, parts)
            without = without or bare
    except (GuestError, KernelError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Linux {kernel.release}, one emulated processor\n\n{table(without, with_agent)}")
    for backend, found in with_agent.items():
        print(f"\nWhere they go, {backend.value} hooks: instructions a request\n{breakdown(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
