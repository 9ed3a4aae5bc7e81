"""The programs with those that follow callbacks of Node, on a Node service, in one form of uprobes.

In:   compiled programs
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

from otel_ebpf.probe.node_watch import NodeWatch
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import NODE_PROGRAMS, NODE_PROMISES_PROGRAMS, TLS_PROGRAMS
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.tls_watch import TlsWatch
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.probed import Probed


class CallbacksWatched(Probed):
    def __init__(self, prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm, mode: str = "ids") -> None:
        of_promises = (NODE_PROMISES_PROGRAMS,) if mode == "promises" else ()
        super().__init__(prepared, hooks, form, NODE_PROGRAMS, TLS_PROGRAMS, *of_promises)
        self.node = self.with_watch(NodeWatch)
        self.with_watch(TlsWatch)

    def follow(self, pid: int) -> None:
        self.watch(pid)
        self.look(pid)
        self.watch(pid, self.node.target_flags(pid))
