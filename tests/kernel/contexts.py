"""The programs with those that follow CPython's contexts, on this process, in one form of uprobes.

In:   compiled programs
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

import os

from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.loader import load_python
from otel_ebpf.probe.python_watch import PythonWatch
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.probed import Probed


class ContextsWatched(Probed):
    def __init__(self, artifact: Artifact, hooks: SocketHooks, form: UprobeForm) -> None:
        super().__init__(artifact, hooks, form, load_python)
        self.attachments.attach_waits(True)
        self.python = self.with_watch(PythonWatch)
        self.follow(os.getpid())

    def follow(self, pid: int) -> None:
        self.look(pid)
        self.watch(pid, self.python.target_flags(pid))
