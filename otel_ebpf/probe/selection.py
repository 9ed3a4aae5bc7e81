"""Does a process match what the user asked for?

In:   its number, the path of its executable, the TCP ports that it listens on
Out:  why it is selected, in words, or None
Owns: the criteria

Criteria of several kinds are alternatives: a process is selected when its port OR its executable OR its number
matches. Without any, every process that listens on TCP is selected.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from otel_ebpf.config import Settings
from otel_ebpf.setting_values import PortRange


@dataclass(frozen=True, slots=True)
class Selection:
    open_ports: tuple[PortRange, ...] = ()
    exe_globs: tuple[str, ...] = ()
    pids: frozenset[int] = frozenset()

    @classmethod
    def from_settings(cls, settings: Settings) -> "Selection":
        return cls(settings.open_ports, settings.exe_globs, frozenset(settings.target_pids))

    @property
    def port_ranges(self) -> tuple[PortRange, ...]:
        """Ports whose listeners are selected; all of them by default."""
        if self.open_ports or self.exe_globs or self.pids:
            return self.open_ports
        return ((1, 65535),)

    def reason_by_port(self, ports: Iterable[int]) -> str | None:
        for port in sorted(ports):
            if any(first <= port <= last for first, last in self.port_ranges):
                return f"listens on port {port}"
        return None

    def reason_by_program(self, pid: int, executable: bytes | None) -> str | None:
        """`executable` is its whole path; a glob without a slash may match the file name alone."""
        if pid in self.pids:
            return "named by OTEL_EBPF_TARGET_PID"
        if not self.exe_globs or not executable:
            return None
        path = os.fsdecode(executable)
        name = path.rpartition("/")[2]
        for glob in self.exe_globs:
            if fnmatchcase(path, glob) or ("/" not in glob and fnmatchcase(name, glob)):
                return f"executable {path} matches {glob}"
        return None
