"""The programs with those that follow CPython's contexts, on this process, in one form of uprobes.

In:   compiled programs
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

import os

from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import PYTHON_PROGRAMS
from otel_ebpf.probe.python_watch import PythonWatch
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.probed import Probed


class ContextsWatched(Probed):
    def __init__(self, prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm) -> None:
        super().__init__(prepared, hooks, form, PYTHON_PROGRAMS)
        self.attachments.attach_waits(True)
        self.python = self.with_watch(PythonWatch)
        self.follow(os.getpid())

    def follow(self, pid: int) -> None:
        self.look(pid)
        self.watch(pid, self.python.target_flags(pid))
