"""Which programs are attached now.

In:   loaded programs, and which hooks are to see the bytes of sockets
Out:  nothing
Owns: one descriptor for each attachment; the kernel detaches when it is closed, also when this process is killed

The programs that follow processes and TCP states are attached as long as the agent runs: they cost nothing while
nothing starts or connects. What sees the bytes of sockets costs others too (the tracepoint every system call of the
host, kprobes every use of a socket), so it comes with the first target and goes with the last.
"""

import os

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import bpf
from otel_ebpf.probe.kprobes import WAIT_KPROBES
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.programs import LASTING_PROGRAMS, SOCKET_PROGRAMS, ProgramRow
from otel_ebpf.probe.socket_hooks import SocketHooks


class Attachments:
    def __init__(self, loaded: Loaded, hooks: SocketHooks) -> None:
        self._loaded = loaded
        self._hooks = hooks
        self._are_sockets_seen = False
        self._links: dict[str, int] = {}  # by function name
        self._kprobes: list[int] = []
        self._waits: list[int] = []

    def attach_lasting(self) -> None:
        for row in LASTING_PROGRAMS:
            self._attach(row)

    def attach_socket_programs(self, is_wanted: bool) -> None:
        """Attaches or detaches them, as there are targets or none."""
        if is_wanted == self._are_sockets_seen:
            return
        if is_wanted:
            self._attach_socket_programs()
        else:
            self._detach_socket_programs()
        self._are_sockets_seen = is_wanted

    def attach_waits(self, is_wanted: bool) -> None:
        """The same for what tells when a thread waits, as there are targets that run Python or none.

        The tracepoint tells it anyway.
        """
        if self._hooks.events is None:
            return
        if is_wanted and not self._waits:
            self._waits = self._hooks.events.attach(self._loaded, WAIT_KPROBES)
        while self._waits and not is_wanted:
            os.close(self._waits.pop())

    @property
    def socket_backend(self) -> str:
        """How the bytes of targets are seen now, for people; empty while they are not."""
        return self._hooks.text if self._are_sockets_seen else ""

    def detach_all(self) -> None:
        self.attach_waits(False)
        self.attach_socket_programs(False)
        while self._links:
            os.close(self._links.popitem()[1])

    def _attach_socket_programs(self) -> None:
        if self._hooks.events is not None:
            self._kprobes = self._hooks.events.attach(self._loaded)
        for row in SOCKET_PROGRAMS[self._hooks.backend]:
            if row.attach_to:
                self._attach(row)

    def _detach_socket_programs(self) -> None:
        while self._kprobes:
            os.close(self._kprobes.pop())
        for row in SOCKET_PROGRAMS[self._hooks.backend]:
            if row.function in self._links:
                os.close(self._links.pop(row.function))

    def _attach(self, row: ProgramRow) -> None:
        try:
            self._links[row.function] = bpf.open_raw_tracepoint(row.attach_to, self._loaded.programs[row.function])
        except OSError as error:
            raise ProbeError(
                f"cannot attach to the raw tracepoint {row.attach_to}: {error.strerror}",
                "It needs CAP_PERFMON (or CAP_SYS_ADMIN) and a kernel with CONFIG_TRACEPOINTS.",
            ) from error
