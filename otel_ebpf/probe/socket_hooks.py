"""Which hooks see the bytes of sockets on this host, and why these.

In:   what is wished for; the kernel, by trying
Out:  SocketHooks; ProbeError when what is demanded cannot be had
Owns: the kprobe events that were made for it, until `close`

With kprobes only who uses TCP and Unix sockets pays; a tracepoint on system calls works on every kernel.
"""

from dataclasses import dataclass

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe.kprobes import KprobeEvents, make_events
from otel_ebpf.probe.programs import SocketBackend

AUTO = "auto"
TEXTS = {
    SocketBackend.TRACEPOINT: "raw tracepoint sys_exit",
    SocketBackend.KPROBE: "kprobes on TCP and Unix sockets",
}


@dataclass(slots=True)
class SocketHooks:
    backend: SocketBackend
    why: str
    events: KprobeEvents | None = None  # of kprobes

    @property
    def text(self) -> str:
        return TEXTS[self.backend]

    @property
    def sees_every_call(self) -> bool:
        """Also those of io_uring and of 32-bit programs."""
        return self.backend is SocketBackend.KPROBE

    def close(self) -> None:
        if self.events is not None:
            self.events.close()


def choose_hooks(wanted: str = AUTO) -> SocketHooks:
    """`wanted` as in OTEL_EBPF_SOCKET_BACKEND."""
    if wanted == SocketBackend.TRACEPOINT.value:
        return SocketHooks(SocketBackend.TRACEPOINT, "asked for by OTEL_EBPF_SOCKET_BACKEND")
    try:
        events = make_events()
    except ProbeError as error:
        if wanted == SocketBackend.KPROBE.value:
            raise
        return SocketHooks(SocketBackend.TRACEPOINT, error.what)
    why = "asked for by OTEL_EBPF_SOCKET_BACKEND" if wanted != AUTO else "nothing but sockets pays for them"
    return SocketHooks(SocketBackend.KPROBE, why, events)
