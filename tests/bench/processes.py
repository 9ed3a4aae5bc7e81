"""What a process has cost so far, by the kernel's own accounts.

In:   a pid
Out:  CPU nanoseconds, memory
Owns: nothing
"""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.services.processes import children_of


def cpu_ns(pid: int) -> int:
    """CPU time of all its threads, ended ones included: the process's CPU clock, see clock_getcpuclockid(3)."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def cpu_of_service_ns(pid: int) -> int:
    """A server and its workers."""
    return cpu_ns(pid) + sum(cpu_ns(child) for child in children_of(pid))


@dataclass(frozen=True)
class Memory:
    rss_mb: float
    pss_mb: float  # shared pages divided among those who share them: what sums up


def memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return Memory(kilobytes["Rss"] / 1024, kilobytes["Pss"] / 1024)
