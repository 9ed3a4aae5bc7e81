"""The programs with those that follow goroutines, on a Go service, in one form of uprobes.

In:   compiled programs
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

import select

from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.go_watch import GoWatch
from otel_ebpf.probe.loader import load, load_go, load_tls
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.programs import programs_of
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.tls_watch import TlsWatch
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.wire import Watched

SECONDS_TO_ATTACH = 60.0


class GoroutinesWatched(Watched):
    def __init__(self, artifact: Artifact, hooks: SocketHooks, form: UprobeForm) -> None:
        self.loaded = load(artifact, programs_of(hooks.backend))
        load_go(artifact, self.loaded, form)
        load_tls(artifact, self.loaded, form)
        super().__init__(self.loaded, hooks)
        self.go, self.tls = GoWatch(self.loaded, form, Procfs()), TlsWatch(self.loaded, form, Procfs())

    def follow(self, pid: int) -> None:
        self.watch(pid, 0)
        self.go.look_at(pid)
        self.tls.look_at(pid)
        self.go.inspect()
        for watch in (self.go, self.tls):
            while (answer := watch.fileno()) >= 0:
                select.select([answer], [], [], SECONDS_TO_ATTACH)
                watch.on_answer()
        self.go.look_at(pid)
        self.watch(pid, self.go.target_flags(pid))

    def close(self) -> None:
        self.go.close()
        self.tls.close()
        super().close()
        self.loaded.close()
