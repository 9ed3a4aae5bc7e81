"""Kprobes on the kernel's own functions that move bytes through sockets.

In:   loaded programs; the kernel's lists of kprobe events and of its symbols
Out:  events, made at once; descriptors of attachments to them; ProbeError that names the function which cannot be probed
Owns: the events, until `close`; what an agent that was killed has left of them goes with the next start

The events are made in tracefs, as bcc does when it is asked for more calls at a time: a return probe holds a place for
each call that is open, a blocking receive holds it for as long as it waits, and without being asked the kernel has but
twice as many places as processors. An event that nothing is attached to costs nothing.
"""

import contextlib
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import bpf
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.perf_rights import try_perf_event

MAX_OPEN_CALLS = 4096  # KRETPROBE_MAXACTIVE_MAX
_TRACING_FOLDERS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_BLACKLIST = Path("/sys/kernel/debug/kprobes/blacklist")
_GROUP = "otel_ebpf_"
_groups: set[str] = set()  # of this process
_PERF_TYPE_TRACEPOINT = 2
PAGE_SYMBOLS = ("vmemmap_base", "page_offset_base")  # on x86-64
_PAGE_PLACES = struct.Struct("<QQ")  # struct page_places
_KALLSYMS = Path("/proc/kallsyms")
NO_SUCH_FUNCTION = "this kernel has no such function, or has it inlined"
_INSTEAD = "OTEL_EBPF_SOCKET_BACKEND=tracepoint does without kprobes."


class Kprobe(NamedTuple):
    function: str  # of the kernel
    program: str  # that runs at its entry
    program_at_return: str = ""
    is_needed: bool = True  # else only some kernels have it


KPROBES = (
    Kprobe("tcp_sendmsg", "on_tcp_send", "on_moved"),
    Kprobe("tcp_recvmsg", "on_tcp_receive", "on_moved"),
    Kprobe("tcp_sendpage", "on_tcp_send_page", "on_moved", is_needed=False),  # until Linux 6.5
    Kprobe("tcp_splice_read", "on_splice_read", "on_moved"),
    Kprobe("tcp_connect", "on_tcp_connect"),
    Kprobe("tcp_close", "on_tcp_close"),
    Kprobe("security_sock_graft", "on_accept"),
    Kprobe("unix_stream_sendmsg", "on_unix_send", "on_moved"),
    Kprobe("unix_stream_recvmsg", "on_unix_receive", "on_moved"),
    Kprobe("unix_stream_sendpage", "on_unix_send_page", "on_moved", is_needed=False),  # until Linux 6.5
    Kprobe("unix_stream_splice_read", "on_splice_read", "on_moved"),
    Kprobe("unix_stream_connect", "on_unix_connect"),
    Kprobe("unix_release", "on_unix_release"),
    Kprobe("unix_shutdown", "on_unix_shutdown"),
    Kprobe("uprobe_mmap", "on_mmap", is_needed=False),  # without uprobes there is nothing to do on TLS libraries
)

# The kernel's names of its system calls, include/linux/syscalls.h: by the processor.
_SYSTEM_CALLS = {"x86_64": "__x64_sys_", "aarch64": "__arm64_sys_"}


def _wait_kprobes(machine: str) -> tuple[Kprobe, ...]:
    begins = _SYSTEM_CALLS.get(machine, "sys_")
    selects, waits = ["pselect6"], ["epoll_pwait"]
    if machine == "x86_64":
        selects.append("select")
        waits.append("epoll_wait")
    return (
        *(Kprobe(f"{begins}{name}", "on_select_call") for name in selects),
        *(Kprobe(f"{begins}{name}", "on_wait") for name in waits),
        Kprobe(f"{begins}epoll_pwait2", "on_wait", is_needed=False),  # from Linux 5.11 on
        *(Kprobe(f"{begins}{name}", "on_accept_call") for name in ("accept", "accept4")),
        *(Kprobe(f"{begins}{name}", "on_naming_call") for name in ("setsockopt", "getsockname", "getpeername")),
    )


# Attached while a target runs Python: they tell when a thread is done with what it has read.
WAIT_KPROBES = _wait_kprobes(os.uname().machine)


class _Event(NamedTuple):
    name: str
    form: str  # p for an entry; r for a return, and how many calls may be open
    function: str  # of the kernel
    program: str


class KprobeEvents:
    """Those of this process, in the kernel's list."""

    def __init__(self, folder: Path, symbols: Mapping[str, int]) -> None:
        self._folder = folder
        self._symbols = symbols
        self._events: list[_Event] = []
        self._group = f"{_GROUP}{os.getpid()}_{os.urandom(4).hex()}"
        _groups.add(self._group)

    def make(self, row: Kprobe) -> None:
        """For its return before for its entry."""
        if row.program_at_return:
            name, form = f"{row.function}_returns", f"r{MAX_OPEN_CALLS}"
            self._make_or_explain(row, _Event(name, form, row.function, row.program_at_return))
        self._make_or_explain(row, _Event(row.function, "p", row.function, row.program))

    def _make_or_explain(self, row: Kprobe, event: _Event) -> None:
        try:
            self._make(event)
        except OSError as error:
            why = why_refused(row.function, error, self._symbols)
            if why != NO_SUCH_FUNCTION or row.is_needed:
                raise ProbeError(f"no kprobe on {row.function}: {why}", _INSTEAD) from error
        else:
            self._events.append(event)

    def _make(self, event: _Event) -> None:
        _write(self._folder, f"{event.form}:{self._group}/{event.name} {event.function}")

    def attach(self, loaded: Loaded, rows: Iterable[Kprobe] = KPROBES) -> list[int]:
        """To all or none. To returns first: of a call that is entered the return is then seen. To be closed from the last."""
        attached: list[int] = []
        functions = {row.function for row in rows}
        addresses = (self._symbols.get(symbol, 0) for symbol in PAGE_SYMBOLS)
        loaded.maps["page_places"].update(bytes(4), _PAGE_PLACES.pack(*addresses))
        try:
            for event in (event for event in self._events if event.function in functions):
                attached.append(self._attach(event, loaded.programs[event.program]))
        except OSError as error:
            for descriptor in attached:
                os.close(descriptor)
            what = f"cannot attach to the kprobe on {event.function}: {error.strerror}"
            raise ProbeError(what, f"It needs CAP_PERFMON. {_INSTEAD}") from error
        return attached

    def _attach(self, event: _Event, program: int) -> int:
        path = self._folder / "events" / self._group / event.name / "id"
        if not path.exists():
            self._make(event)  # an agent that sees other processes than this one took it for abandoned
        number = int(path.read_text())
        perf_event = bpf.perf_event_open(_PERF_TYPE_TRACEPOINT, number, cpu=0)
        try:
            bpf.attach_to_perf_event(perf_event, program)
        except BaseException:
            os.close(perf_event)
            raise
        return perf_event

    def close(self) -> None:
        """After the last attachment: the kernel removes none that is in use."""
        while self._events:
            with contextlib.suppress(OSError):  # nobody else removes them; if somebody has, that is well
                _write(self._folder, f"-:{self._group}/{self._events.pop().name}")


def make_events() -> KprobeEvents:
    """All that the kernel has, not attached yet; ProbeError when one that is needed cannot be made."""
    folder = tracing_folder()
    try:
        try_perf_event()
    except OSError as error:
        what = f"no kprobes: this process may open no perf events: {error.strerror} (kernel.perf_event_paranoid)"
        raise ProbeError(what, f"Run as root, or with CAP_SYS_ADMIN. {_INSTEAD}") from error
    remove_abandoned_events(folder)
    events = KprobeEvents(folder, addresses_of({*PAGE_SYMBOLS, *(row.function for row in (*KPROBES, *WAIT_KPROBES))}))
    try:
        for row in sorted((*KPROBES, *WAIT_KPROBES), key=lambda row: not row.program_at_return):
            events.make(row)
    except BaseException:
        events.close()
        raise
    return events


def why_refused(function: str, error: OSError, symbols: Collection[str], blacklist: Path = _BLACKLIST) -> str:
    """In the kernel's own words, unless more is known."""
    if function not in symbols:
        return NO_SUCH_FUNCTION
    with contextlib.suppress(OSError):
        if any(line.split()[-1:] == [function] for line in blacklist.read_text().splitlines()):
            return f"it is in {blacklist}"
    return error.strerror or str(error)


def tracing_folder() -> Path:
    """Where kprobe events are made; ProbeError when this kernel has none, or they cannot be made."""
    if not Path("/sys/bus/event_source/devices/kprobe").is_dir():
        raise ProbeError("this kernel has no kprobes", "It needs CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y.")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        raise ProbeError("this kernel does not tell its types", "It needs CONFIG_DEBUG_INFO_BTF=y.")
    for folder in _TRACING_FOLDERS:
        if os.access(folder / "kprobe_events", os.W_OK):
            return folder
    raise ProbeError(
        f"{_TRACING_FOLDERS[0]}/kprobe_events cannot be written",
        "`mount -t tracefs tracefs /sys/kernel/tracing` mounts it; a container needs it from the host.",
    )


def addresses_of(symbols: Collection[str], kallsyms: Path = _KALLSYMS) -> dict[str, int]:
    """Of those that the kernel itself has, without its modules; 0 where it does not tell without CAP_SYSLOG."""
    wanted = {symbol.encode() for symbol in symbols}
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), open(kallsyms, "rb") as file:
        for line in file:
            address, _, name, *module = line.split()
            if module or len(found) == len(wanted):
                break
            if name in wanted:
                found.setdefault(name.decode(), int(address, 16))
    return found


def remove_abandoned_events(folder: Path) -> None:
    """Of agents that were killed; in a container the next one may have their number. The kernel removes none that is in use."""
    for line in (folder / "kprobe_events").read_text().splitlines():
        group, _, name = line.split()[0].partition(":")[2].partition("/")
        pid = group.removeprefix(_GROUP).partition("_")[0]
        if group in _groups or not group.startswith(_GROUP) or not pid.isdigit():
            continue
        if int(pid) == os.getpid() or not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                _write(folder, f"-:{group}/{name}")


def _write(folder: Path, line: str) -> None:
    """To be appended: opened in another way, the list is emptied."""
    descriptor = os.open(folder / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
