"""Which BPF programs there are, and the source that they are made of.

In:   the folder bpf/, in a checkout or in an installed package
Out:  one C text for bcc; where each program is to be attached
Owns: nothing

bcc rewrites map calls only in the text that it is given, so the fragments are joined into one; `#line` makes its
messages name the real file. Headers (types, sizes, map declarations) are included as usual.
"""

from pathlib import Path
from typing import NamedTuple

from otel_ebpf.errors import ProbeError

BPF_PROG_TYPE_KPROBE = 2  # uprobes too
BPF_PROG_TYPE_RAW_TRACEPOINT = 17

HEADERS = ("records.h", "limits.h", "maps.h")

# A fragment may use what stands before it.
FRAGMENTS = (
    "targets.c",
    "emit.c",
    "sockets.c",
    "capture.c",
    "chunks.c",
    "tls_hello.c",
    "http1.c",
    "heads.c",
    "tls.c",
    "tcp_states.c",
    "processes.c",
    "socket_syscalls.c",
)


class ProgramRow(NamedTuple):
    function: str  # its name in C
    kind: int  # BPF_PROG_TYPE_*
    attach_to: str  # name of the raw tracepoint; "" for a program that another one goes on with


PROGRAMS = (
    ProgramRow("on_sys_exit", BPF_PROG_TYPE_RAW_TRACEPOINT, "sys_exit"),
    ProgramRow("on_heads", BPF_PROG_TYPE_RAW_TRACEPOINT, ""),
    ProgramRow("on_chunks", BPF_PROG_TYPE_RAW_TRACEPOINT, ""),
    ProgramRow("on_inet_sock_set_state", BPF_PROG_TYPE_RAW_TRACEPOINT, "inet_sock_set_state"),
    ProgramRow("on_process_exec", BPF_PROG_TYPE_RAW_TRACEPOINT, "sched_process_exec"),
    ProgramRow("on_process_fork", BPF_PROG_TYPE_RAW_TRACEPOINT, "sched_process_fork"),
    ProgramRow("on_process_exit", BPF_PROG_TYPE_RAW_TRACEPOINT, "sched_process_exit"),
)

# Uprobes on TLS libraries: loaded as far as the kernel's form of uprobes wants them. See probe/uprobes.py.
TLS_PROGRAMS = (
    ProgramRow("on_tls_call", BPF_PROG_TYPE_KPROBE, ""),
    ProgramRow("on_tls_entry", BPF_PROG_TYPE_KPROBE, ""),
    ProgramRow("on_tls_return", BPF_PROG_TYPE_KPROBE, ""),
    ProgramRow("on_tls_bytes", BPF_PROG_TYPE_KPROBE, ""),
    ProgramRow("on_tls_heads", BPF_PROG_TYPE_KPROBE, ""),
    ProgramRow("on_tls_chunks", BPF_PROG_TYPE_KPROBE, ""),
)

# Index into the map tail_programs, as enum tail_program in bpf/maps.h; and into tls_tail_programs.
TAIL_PROGRAMS = {"on_chunks": 0, "on_heads": 1}
TLS_TAIL_PROGRAMS = {"on_tls_chunks": 0, "on_tls_heads": 1, "on_tls_bytes": 2}


class Source(NamedTuple):
    """C text for bcc, and the text of the headers that it includes from a folder."""

    text: str
    include_folder: Path | None = None
    headers_text: str = ""


def bpf_folder(package: Path = Path(__file__).parent.parent) -> Path:
    """Inside the package when installed, beside it in a checkout."""
    for folder in (package / "bpf", package.parent / "bpf"):
        if (folder / HEADERS[0]).is_file():
            return folder
    raise ProbeError(
        f"the BPF sources are neither in {package}/bpf nor in {package.parent}/bpf",
        "Install otel-ebpf again: its package is not complete.",
    )


def read_source(folder: Path | None = None) -> Source:
    """All fragments in order, after the headers."""
    folder = folder or bpf_folder()
    includes = "".join(f'#include "{name}"\n' for name in HEADERS)
    parts = [f'#line 1 "{name}"\n{_read(folder / name)}\n' for name in FRAGMENTS]
    return Source(includes + "".join(parts), folder, "\0".join(_read(folder / name) for name in HEADERS))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProbeError(
            f"cannot read the BPF source {path}: {error.strerror}",
            "Install otel-ebpf again: its package is not complete.",
        ) from error
