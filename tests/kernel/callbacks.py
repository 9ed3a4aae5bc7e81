"""The programs with those that follow callbacks of Node, on a Node service, in one form of uprobes.

In:   compiled programs
Out:  what became of requests, as wire.py gives it
Owns: nothing that lasts
"""

from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.loader import load_node, load_node_promises, load_tls
from otel_ebpf.probe.node_watch import NodeWatch
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.tls_watch import TlsWatch
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.probed import Probed


class CallbacksWatched(Probed):
    def __init__(self, artifact: Artifact, hooks: SocketHooks, form: UprobeForm, mode: str = "ids") -> None:
        loads = (load_node, load_node_promises, load_tls) if mode == "promises" else (load_node, load_tls)
        super().__init__(artifact, hooks, form, *loads)
        self.node = self.with_watch(NodeWatch)
        self.with_watch(TlsWatch)

    def follow(self, pid: int) -> None:
        self.watch(pid)
        self.look(pid)
        self.watch(pid, self.node.target_flags(pid))
