"""The programs with those that follow goroutines, on a Go service, in one form of uprobes.

In:   compiled programs
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

from otel_ebpf.probe.go_watch import GoWatch
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import GO_PROGRAMS, TLS_PROGRAMS
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.tls_watch import TlsWatch
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.probed import Probed


class GoroutinesWatched(Probed):
    def __init__(self, prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm) -> None:
        super().__init__(prepared, hooks, form, GO_PROGRAMS, TLS_PROGRAMS)
        self.go = self.with_watch(GoWatch)
        self.with_watch(TlsWatch)

    def follow(self, pid: int) -> None:
        self.watch(pid)
        self.look(pid)
        self.watch(pid, self.go.target_flags(pid))
