"""Which BPF programs there are, and the source that they are made of.

In:   the folder bpf/, in a checkout or in an installed package
Out:  C texts for bcc, one for each part; where each program is to be attached
Owns: nothing

bcc rewrites map calls only in the text that it is given, so the fragments of a part are joined into one; `#line` makes its
messages name the real file. Headers (types, sizes, map declarations) are included as usual.
"""

import enum
from pathlib import Path
from typing import NamedTuple

from otel_ebpf.errors import ProbeError

BPF_PROG_TYPE_KPROBE = 2  # uprobes too
BPF_PROG_TYPE_RAW_TRACEPOINT = 17

HEADERS = ("helpers.h", "records.h", "limits.h", "maps.h")


class SocketBackend(enum.Enum):
    """Which hooks see the bytes of sockets. The value is the word for it in OTEL_EBPF_SOCKET_BACKEND."""

    TRACEPOINT = "tracepoint"
    KPROBE = "kprobe"


class ProgramRow(NamedTuple):
    function: str  # its name in C
    kind: int  # BPF_PROG_TYPE_*
    attach_to: str  # name of the raw tracepoint; "" for what is attached elsewhere, or that another one goes on with


def _kprobes(*functions: str) -> tuple[ProgramRow, ...]:
    return tuple(ProgramRow(function, BPF_PROG_TYPE_KPROBE, "") for function in functions)


# Attached as long as the agent runs.
LASTING_PROGRAMS = (
    ProgramRow("on_inet_sock_set_state", BPF_PROG_TYPE_RAW_TRACEPOINT, "inet_sock_set_state"),
    ProgramRow("on_process_exec", BPF_PROG_TYPE_RAW_TRACEPOINT, "sched_process_exec"),
    ProgramRow("on_process_fork", BPF_PROG_TYPE_RAW_TRACEPOINT, "sched_process_fork"),
    ProgramRow("on_process_exit", BPF_PROG_TYPE_RAW_TRACEPOINT, "sched_process_exit"),
)

SOCKET_PROGRAMS = {
    SocketBackend.TRACEPOINT: (
        ProgramRow("on_sys_exit", BPF_PROG_TYPE_RAW_TRACEPOINT, "sys_exit"),
        ProgramRow("on_heads", BPF_PROG_TYPE_RAW_TRACEPOINT, ""),
        ProgramRow("on_chunks", BPF_PROG_TYPE_RAW_TRACEPOINT, ""),
        ProgramRow("on_owners", BPF_PROG_TYPE_RAW_TRACEPOINT, ""),
        ProgramRow("on_beginning", BPF_PROG_TYPE_RAW_TRACEPOINT, ""),
    ),
    # Which function of the kernel each one is for: see probe/kprobes.py.
    SocketBackend.KPROBE: (
        *_kprobes("on_tcp_send", "on_tcp_receive", "on_tcp_send_page", "on_splice_read", "on_moved"),
        *_kprobes("on_unix_send", "on_unix_receive", "on_unix_send_page"),
        *_kprobes("on_tcp_connect", "on_unix_connect", "on_accept"),
        *_kprobes("on_tcp_close", "on_unix_release", "on_unix_shutdown", "on_mmap"),
        *_kprobes("on_heads", "on_chunks", "on_owners", "on_beginning"),
        *_kprobes("on_wait", "on_select_call", "on_accept_call", "on_naming_call"),
    ),
}


class ProgramGroup(NamedTuple):
    """Uprobes that are loaded together: when the first of them is asked for."""

    rows: tuple[ProgramRow, ...]
    tail_map: str = ""  # where those are entered that others go on with
    tails: tuple[tuple[str, int], ...] = ()  # programs with their places there
    asks_for_returns: bool = False  # else all are on instructions, whatever the kernel's form


# With their places in the map tail_programs, as enum tail_program in bpf/maps.h; those of TLS have the same.
TAIL_PROGRAMS = (("on_chunks", 0), ("on_heads", 1), ("on_owners", 2), ("on_beginning", 3))

# On TLS libraries: as far as the kernel's form of uprobes wants them. See probe/uprobes.py.
TLS_PROGRAMS = ProgramGroup(
    _kprobes(
        *("on_tls_call", "on_tls_entry", "on_tls_return"),
        *("on_go_write", "on_go_written", "on_go_read"),
        *("on_tls_bytes", "on_tls_heads", "on_tls_chunks", "on_tls_owners", "on_tls_beginning"),
    ),
    "tls_tail_programs",
    (("on_tls_chunks", 0), ("on_tls_heads", 1), ("on_tls_owners", 2), ("on_tls_beginning", 3), ("on_tls_bytes", 4)),
    asks_for_returns=True,
)

# On CPython: see probe/python_watch.py.
PYTHON_PROGRAMS = ProgramGroup(
    _kprobes(
        *("on_context_made", "on_context_freed", "on_context_entered"),
        *("on_job_put", "on_job_taken"),
    )
)

# On Go's runtime and on net/http: see probe/go_watch.py.
GO_PROGRAMS = ProgramGroup(_kprobes("on_goroutine_born", "on_round_trip", "on_connection_write", "on_request_handled"))

# On Node: see probe/node_watch.py.
NODE_PROGRAMS = ProgramGroup(_kprobes("on_node_made"))
NODE_PROMISES_PROGRAMS = ProgramGroup(
    _kprobes(
        *("on_node_jobs", "on_node_jobs_end", "on_node_then", "on_node_then_end", "on_node_job"),
        *("on_node_other_job", "on_node_collected", "on_node_moved"),
    ),
    "node_tail_programs",
    (("on_node_moved", 0),),
)

# On getaddrinfo.
LOOKUP_PROGRAMS = ProgramGroup(_kprobes("on_lookup_entry", "on_lookup_end"))

UPROBE_GROUPS = (
    *(TLS_PROGRAMS, PYTHON_PROGRAMS, GO_PROGRAMS),
    *(NODE_PROGRAMS, NODE_PROMISES_PROGRAMS, LOOKUP_PROGRAMS),
)


class Part(enum.Enum):
    """What is compiled and kept by itself: no span comes without those on sockets, so nothing else holds them up."""

    SOCKETS = "sockets"
    UPROBES = "uprobes"


# A fragment may use what stands before it.
_SHARED_FRAGMENTS = (
    "targets.c",
    "emit.c",
    "sockets.c",
    "unseen.c",
    "{memory}",
    "capture.c",
    "proxy_header.c",
    "tls_hello.c",
    "python.c",
    "go.c",
    "node.c",
    "owners.c",
    "http1.c",
    "heads.c",
    "chunks.c",
    "node_owners.c",
    "nginx.c",
    "beginnings.c",
    "lookups.c",
)
_FRAGMENTS = {
    Part.SOCKETS: ("socket_tails.c", "tcp_states.c", "processes.c", "socket_events.c", "{hooks}"),
    Part.UPROBES: (
        "tls.c",
        "go_tls.c",
        "python_contexts.c",
        "go_calls.c",
        "node_calls.c",
        "node_promises.c",
        "lookup_calls.c",
    ),
}
_OF_BACKEND = {
    SocketBackend.TRACEPOINT: {"memory": "user_memory.c", "hooks": "socket_syscalls.c"},
    SocketBackend.KPROBE: {"memory": "iterators.c", "hooks": "socket_kprobes.c"},
}
_FIRST_LINE = {SocketBackend.TRACEPOINT: "", SocketBackend.KPROBE: "#define BY_KPROBES 1\n"}


def programs_of(backend: SocketBackend) -> tuple[ProgramRow, ...]:
    """All that are loaded at the start."""
    return SOCKET_PROGRAMS[backend] + LASTING_PROGRAMS


def rows_of(backend: SocketBackend, part: Part) -> tuple[ProgramRow, ...]:
    """All that this part consists of."""
    if part is Part.SOCKETS:
        return programs_of(backend)
    return tuple(row for group in UPROBE_GROUPS for row in group.rows)


def fragments_of(backend: SocketBackend, part: Part) -> tuple[str, ...]:
    return tuple(name.format(**_OF_BACKEND[backend]) for name in _SHARED_FRAGMENTS + _FRAGMENTS[part])


class Source(NamedTuple):
    """C text for bcc, and the text of the headers that it includes from a folder."""

    text: str
    include_folder: Path | None = None
    headers_text: str = ""
    name: str = ""  # for people: ps shows it with the compiler


def bpf_folder(package: Path = Path(__file__).parent.parent) -> Path:
    """Inside the package when installed, beside it in a checkout."""
    for folder in (package / "bpf", package.parent / "bpf"):
        if (folder / HEADERS[0]).is_file():
            return folder
    raise ProbeError(
        f"the BPF sources are neither in {package}/bpf nor in {package.parent}/bpf",
        "Install otel-ebpf again: its package is not complete.",
    )


def read_source(backend: SocketBackend, part: Part, folder: Path | None = None) -> Source:
    """All fragments of this part in order, after the headers."""
    folder = folder or bpf_folder()
    includes = "".join(f'#include "{name}"\n' for name in HEADERS)
    parts = [f'#line 1 "{name}"\n{_read(folder / name)}\n' for name in fragments_of(backend, part)]
    headers_text = "\0".join(_read(folder / name) for name in HEADERS)
    return Source(_FIRST_LINE[backend] + includes + "".join(parts), folder, headers_text, part.value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProbeError(
            f"cannot read the BPF source {path}: {error.strerror}",
            "Install otel-ebpf again: its package is not complete.",
        ) from error
