"""The programs with those that follow CPython's contexts, on this process, in one form of uprobes.

In:   compiled programs
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

import os
import select

from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.loader import load, load_python
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.programs import programs_of
from otel_ebpf.probe.python_watch import PythonWatch
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.wire import Watched

SECONDS_TO_ATTACH = 60.0


class ContextsWatched(Watched):
    def __init__(self, artifact: Artifact, hooks: SocketHooks, form: UprobeForm) -> None:
        self.loaded = load(artifact, programs_of(hooks.backend))
        load_python(artifact, self.loaded, form)
        super().__init__(self.loaded, hooks)
        self.attachments.attach_waits(True)
        self.python = PythonWatch(self.loaded, form, Procfs())
        self.follow(os.getpid())

    def follow(self, pid: int) -> None:
        self.python.look_at(pid)
        while (answer := self.python.fileno()) >= 0:
            select.select([answer], [], [], SECONDS_TO_ATTACH)
            self.python.on_answer()
        self.python.look_at(pid)
        self.watch(pid, self.python.target_flags(pid))

    def close(self) -> None:
        self.python.close()
        super().close()
        self.loaded.close()
