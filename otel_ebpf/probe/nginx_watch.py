"""Which targets are nginx, so that the kernel side asks them for whom they send.

In:   which processes are targets, what they have mapped; how often the kernel side has found a request
Out:  the flag of those that are; what is not known, and why
Owns: nothing

No probe: what nginx keeps of a socket the kernel side finds by way of epoll, see bpf/nginx.c.
"""

import os
import re
import struct
from collections.abc import Iterable

from otel_ebpf.errors import printable
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.maps import PID, Map
from otel_ebpf.probe.procfs import MappedFile, Procfs

TARGET_IS_NGINX = 64
_NAME = re.compile(rb"/(nginx|openresty|angie|freenginx|tengine)(-debug)?\Z")
_TALLY = struct.Struct("<QQ")  # struct upstream_tally
_ENOUGH_LOST = 8  # and none found: this build keeps its requests elsewhere, or does not wait by epoll
_ELSEWHERE = "its requests are not where nginx has them"
_MAX_TROUBLES = 256


def is_nginx(mapped: MappedFile) -> bool:
    return _NAME.search(mapped.path) is not None


class NginxWatch:
    def __init__(self, loaded: Loaded, procfs: Procfs, *, is_on: bool) -> None:
        self._tallies: Map = loaded.maps["upstream_tallies"]
        self._procfs = procfs
        self._is_on = is_on and os.uname().machine == "x86_64"  # nobody has looked at it elsewhere
        self._paths: dict[int, str] = {}  # of their executables, for people
        self._troubles: dict[str, None] = {}

    @property
    def troubles(self) -> list[str]:
        """For people: whose calls have no parent, and why."""
        return list(self._troubles)

    def target_flags(self, pid: int) -> int:
        return TARGET_IS_NGINX if pid in self._paths else 0

    def fileno(self) -> int:
        """There is nothing to wait for."""
        return -1

    def look_at(self, pid: int) -> None:
        """A new target, or one that has mapped something. What `target_flags` says may change by it."""
        self._paths.pop(pid, None)
        executable = next(filter(is_nginx, self._procfs.mapped_files(pid)), None) if self._is_on else None
        if executable is not None:
            self._paths[pid] = printable(os.fsdecode(executable.path))

    def inspect(self) -> None:
        """Nothing has to be found out in files."""

    def on_answer(self) -> None:
        """So nobody answers."""

    def forget(self, pid: int) -> None:
        self._paths.pop(pid, None)

    def tick(self) -> None:
        """Once a second."""
        for path in set(self._paths.values()):
            pids = [pid for pid, other in self._paths.items() if other == path]
            if len(self._troubles) < _MAX_TROUBLES and _find_nothing(self._tallies, pids):
                self._troubles[f"calls of {path} have no parent: {_ELSEWHERE}"] = None

    def close(self) -> None:
        self._paths.clear()


def _find_nothing(tallies: Map, pids: Iterable[int]) -> bool:
    found_by = [_TALLY.unpack(tally) for pid in pids if (tally := tallies.lookup(PID.pack(pid)))]
    found, lost = (sum(counts) for counts in zip((0, 0), *found_by, strict=True))
    return lost >= _ENOUGH_LOST and not found
