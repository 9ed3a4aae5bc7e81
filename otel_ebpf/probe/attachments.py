"""Which programs are attached now.

In:   loaded programs
Out:  nothing
Owns: one descriptor for each attachment; the kernel detaches when it is closed, also when this process is killed

The programs that follow processes and TCP states are attached as long as the agent runs: they cost nothing while
nothing starts or connects. The one on sys_exit costs every system call of the host, so it comes with the first
target and goes with the last.
"""

import os
from collections.abc import Mapping

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import bpf
from otel_ebpf.probe.programs import PROGRAMS

SOCKET_PROGRAM = "on_sys_exit"


class Attachments:
    """`programs`: descriptors by function name."""

    def __init__(self, programs: Mapping[str, int]) -> None:
        self._programs = programs
        self._rows = {row.function: row for row in PROGRAMS}
        self._links: dict[str, int] = {}

    def attach_lasting(self) -> None:
        for name, row in self._rows.items():
            if name != SOCKET_PROGRAM and row.attach_to and name in self._programs:
                self._attach(name)

    def attach_socket_program(self, is_wanted: bool) -> None:
        """Attaches or detaches it, as there are targets or none."""
        if is_wanted and SOCKET_PROGRAM not in self._links:
            self._attach(SOCKET_PROGRAM)
        elif not is_wanted and SOCKET_PROGRAM in self._links:
            os.close(self._links.pop(SOCKET_PROGRAM))

    @property
    def socket_backend(self) -> str:
        """How the bytes of targets are seen now, for people; empty while they are not."""
        return f"raw tracepoint {self._rows[SOCKET_PROGRAM].attach_to}" if SOCKET_PROGRAM in self._links else ""

    def detach_all(self) -> None:
        while self._links:
            os.close(self._links.popitem()[1])

    def _attach(self, name: str) -> None:
        tracepoint = self._rows[name].attach_to
        try:
            self._links[name] = bpf.open_raw_tracepoint(tracepoint, self._programs[name])
        except OSError as error:
            raise ProbeError(
                f"cannot attach to the raw tracepoint {tracepoint}: {error.strerror}",
                "It needs CAP_PERFMON (or CAP_SYS_ADMIN) and a kernel with CONFIG_TRACEPOINTS.",
            ) from error
