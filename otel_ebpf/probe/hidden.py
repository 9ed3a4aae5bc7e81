"""What processes have that hides traffic from the hooks: TLS libraries without probes; from those on system calls also
io_uring and 32-bit code.

In:   the targets, the time; /proc
Out:  one frame for each service of which that has changed
Owns: what was found in each process, and when it is looked at again

A process that has loaded a library need not use it, and may load one at any time: so every target is looked at again
and again, a few at each tick, one that takes long to look at less often.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from otel_ebpf.probe.discovery import Target
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.records.kinds import Hidden

_LOOKS_A_TICK = 16
_LOOK_EVERY_NS = 10_000_000_000
_IDLE_SHARE = 200  # of the time that looking at a process took: until it is looked at again
# Of one service; six findings of a thousand processes are 50 KB of the 64 that a frame may have. File names are chosen
# by others: however many look like libraries, the findings of other kinds stand first.
MAX_FINDINGS = 6
MAX_PIDS = 1000


@dataclass(slots=True)
class _Look:
    start_ticks: int
    service_pid: int
    due_ns: int
    found: frozenset[str]


class HiddenTraffic:
    def __init__(self, procfs: Procfs, read_tls: Callable[[int], set[bytes]], sees_every_call: bool = False) -> None:
        """`read_tls`: names of the libraries of a process whose TLS is read. `sees_every_call`: the hooks on sockets
        do, also those of io_uring and of 32-bit programs."""
        self._procfs = procfs
        self._sees_every_call = sees_every_call
        self._read_tls = read_tls
        self._looks: dict[int, _Look] = {}  # by pid, who is due next first
        self._told: dict[int, dict[str, tuple[int, ...]]] = {}

    def look(self, targets: Mapping[int, Target], now_ns: int) -> list[Hidden]:
        """Who is new comes first, then who has waited longest."""
        for pid in [pid for pid, look in self._looks.items() if not _is_of(targets.get(pid), look)]:
            del self._looks[pid]
        fresh = [pid for pid in targets if pid not in self._looks]
        due = [pid for pid, look in self._looks.items() if look.due_ns <= now_ns]
        for pid in [*fresh, *due][:_LOOKS_A_TICK]:
            self._looks.pop(pid, None)
            self._looks[pid] = self._look_at(targets[pid], now_ns)
        return self._changes({target.service_pid for target in targets.values()})

    def _look_at(self, target: Target, now_ns: int) -> _Look:
        began_ns = time.monotonic_ns()
        unread = self._procfs.tls_libraries(target.pid) - self._read_tls(target.pid)
        found = {f"tls {name.decode()}" for name in sorted(unread)[:MAX_FINDINGS]}
        if not self._sees_every_call and self._procfs.has_io_uring(target.pid):
            found.add("io_uring")
        if not self._sees_every_call and self._procfs.is_32_bit(target.pid):
            found.add("32-bit")
        took_ns = time.monotonic_ns() - began_ns
        due_ns = now_ns + max(_LOOK_EVERY_NS, took_ns * _IDLE_SHARE)
        return _Look(target.start_ticks, target.service_pid, due_ns, frozenset(found))

    def _changes(self, services: set[int]) -> list[Hidden]:
        found: dict[int, defaultdict[str, list[int]]] = {}
        for pid, look in sorted(self._looks.items()):
            for what in look.found:
                found.setdefault(look.service_pid, defaultdict(list))[what].append(pid)
        for gone in self._told.keys() - services:
            del self._told[gone]
        changes = []
        for service_pid in services:
            kinds = sorted(found.get(service_pid, {}).items(), key=lambda item: (item[0].startswith("tls "), item[0]))
            now = {what: tuple(pids[:MAX_PIDS]) for what, pids in kinds[:MAX_FINDINGS]}
            if now != self._told.get(service_pid, {}):
                self._told[service_pid] = now
                changes.append(Hidden(service_pid, now))
        return changes


def _is_of(target: Target | None, look: _Look) -> bool:
    return target is not None and (target.start_ticks, target.service_pid) == (look.start_ticks, look.service_pid)
