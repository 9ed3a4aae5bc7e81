"""`otel-ebpf run`: one process becomes three, each with the rights that it needs.

    compiler   a child while the programs are compiled; nothing of it stays
    exporter   forked before the probe holds anything privileged; an unprivileged user from its first byte on
    probe      this process: loads, attaches, then gives up all other capabilities

In:   Settings
Out:  the exit status; AgentError for what ended the agent
Owns: the order of it all

The exporter is forked, not executed: its user may not be able to read the virtual environment that holds the code.
When either side ends, the other finds its end of the channel closed and ends too, with a message.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from otel_ebpf.config import Settings
from otel_ebpf.errors import AgentError, PeerLostError, PreflightError, error_text
from otel_ebpf.probe import privileges
from otel_ebpf.probe.capabilities import effective_capabilities, lacking_rights
from otel_ebpf.probe.discovery import Discovery, Target
from otel_ebpf.probe.executables import find_executables
from otel_ebpf.probe.later_programs import offer
from otel_ebpf.probe.loader import Loaded, load
from otel_ebpf.probe.perf_rights import is_perfmon_enough
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.private_folder import make_folder_for
from otel_ebpf.probe.programs import (
    GO_PROGRAMS,
    LOOKUP_PROGRAMS,
    NODE_PROGRAMS,
    NODE_PROMISES_PROGRAMS,
    PYTHON_PROGRAMS,
    TLS_PROGRAMS,
    Part,
    ProgramGroup,
    programs_of,
)
from otel_ebpf.probe.selection import Selection
from otel_ebpf.probe.socket_hooks import SocketHooks, choose_hooks
from otel_ebpf.probe.stop_signals import StopSignals
from otel_ebpf.probe.uprobes import UprobeForm, available_forms
from otel_ebpf.probe.watcher import Watcher
from otel_ebpf.records.recording import OpenRecording
from otel_ebpf.status_socket import remove_status_file

# CAP_BPF: maps. CAP_PERFMON: attaching. The other two: /proc/PID of other users' processes.
PROBE_CAPABILITIES = frozenset(("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"))
KEEPS_ADMIN = "keeps CAP_SYS_ADMIN: this kernel opens perf events for nobody else (kernel.perf_event_paranoid)"
UNSETTLED = "TLS, names and parents follow once the files of what runs have their probes"

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_PROCESS_EVENT_PAGES = 32  # limits.h
_EXPORTER_GRACE_SECONDS = 3.0  # more than its own watchdog takes, which says where it hangs
_CHANNEL_TIMEOUT_SECONDS = 30.0  # an exporter that reads nothing for so long is lost


def run(settings: Settings, record_to: Path | None = None, is_redacted: bool = False) -> int:
    """Runs until SIGTERM or SIGINT; returns 0 after a clean end."""
    require_rights(effective_capabilities())
    if settings.spool_folder is not None and settings.otlp is not None:
        make_folder_for(settings.spool_folder, *privileges.user_and_group(settings.user))
    recording = None if record_to is None else OpenRecording(open_new_file(record_to), is_redacted)
    try:
        return _run(settings, recording)
    finally:
        if record_to is not None:
            _remove_if_empty(record_to)


def _run(settings: Settings, recording: OpenRecording | None) -> int:
    privileges.set_process_name("otel-ebpf-probe")
    stop = StopSignals()
    channel, exporter_pid = _fork_exporter(settings, recording)
    hooks = prepared = None
    try:
        hooks = choose_hooks(settings.socket_backend)
        uprobes = wanted_uprobes(settings)
        form = next(available_forms(), None) if uprobes else None
        prepared = PreparedParts(
            hooks.backend,
            program_flags(settings),
            cache_dir=Path(settings.cache_folder),
            bcc_python=settings.bcc_python,
            parts=Part if form is not None else (Part.SOCKETS,),
        )
        with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
            offer_uprobes(uprobes, form, loaded, prepared)
            return _watch(settings, loaded, hooks, form, prepared, channel, exporter_pid, stop)
    except PeerLostError as error:
        raise PeerLostError(f"the exporter {_how_it_ended(exporter_pid)}; detached", error.remedy) from error
    finally:
        if prepared is not None:
            prepared.close()
        if hooks is not None:
            hooks.close()
        channel.close()
        if settings.status_socket is not None:
            remove_status_file(settings.status_socket)


def program_flags(settings: Settings) -> dict[str, int | str]:
    """What the C source is compiled with on this host."""
    flags: dict[str, int | str] = {
        "CPU_BITS": max(1, (os.sysconf("SC_NPROCESSORS_CONF") - 1).bit_length()),
        "RING_PAGES": settings.ring_bytes // _PAGE_BYTES,
        "MAX_CONNECTIONS": settings.max_connections,
    }
    namespace = os.stat("/proc/self/ns/pid")
    if namespace.st_ino != _INITIAL_PID_NAMESPACE:
        flags |= {"PID_NAMESPACE_DEVICE": namespace.st_dev, "PID_NAMESPACE_INODE": namespace.st_ino}
    return flags


def select_ports(loaded: Loaded, selection: Selection) -> None:
    """Tells the kernel which listening ports make a process a target at once."""
    words = [0] * 1024
    for first, last in selection.port_ranges:
        for port in range(first, last + 1):
            words[port >> 6] |= 1 << (port & 63)
    for index, word in enumerate(words):
        if word:
            loaded.maps["selected_ports"].update(index.to_bytes(4, "little"), word.to_bytes(8, "little"))


def wanted_uprobes(settings: Settings) -> dict[str, ProgramGroup]:
    """By what is missing without them."""
    has_links = settings.parents != "off"
    follows_promises = has_links and settings.node_parents == "promises"
    wanted = (
        (settings.watches_tls, "TLS is not read", TLS_PROGRAMS),
        (settings.watches_lookups, "names that are looked up are not seen", LOOKUP_PROGRAMS),
        (has_links, "calls of Python have no parent", PYTHON_PROGRAMS),
        (has_links, "calls of Go programs have no parent", GO_PROGRAMS),
        (has_links and settings.node_parents != "off", "calls of Node programs have no parent", NODE_PROGRAMS),
        (follows_promises, "what Node programs call behind an await has no parent", NODE_PROMISES_PROGRAMS),
    )
    return {what: group for is_wanted, what, group in wanted if is_wanted}


def offer_uprobes(
    wanted: Mapping[str, ProgramGroup], form: UprobeForm | None, loaded: Loaded, prepared: PreparedParts
) -> None:
    """Without them the agent works on: plain text needs none."""
    for what, group in wanted.items():
        if form is None:
            _report([f"{what}: this kernel or these rights allow no uprobes with cookies (Linux 5.15)"])
        else:
            offer(loaded, form, group, lambda: prepared.artifact(Part.UPROBES))


def _watch(
    settings: Settings,
    loaded: Loaded,
    hooks: SocketHooks,
    form: UprobeForm | None,
    prepared: PreparedParts,
    channel: socket.socket,
    exporter_pid: int,
    stop: StopSignals,
) -> int:
    selection = Selection.from_settings(settings)
    own_pids = (os.getpid(), exporter_pid)
    has_links = settings.parents != "off"
    events_bytes = _PROCESS_EVENT_PAGES * _PAGE_BYTES
    watcher = Watcher(
        loaded,
        hooks,
        Discovery(selection, own_pids),
        channel,
        own_pids,
        events_bytes,
        form,
        prepared,
        has_links=has_links,
    )
    try:
        select_ports(loaded, selection)
        for (inode, device), path in find_executables(selection.exe_globs).items():
            watcher.know_executable(inode, device, os.fsencode(path))
        _hand_over(channel, loaded)
        targets = watcher.start()
        opens_perf_events = hooks.events is not None or form is UprobeForm.PERF
        needs_admin = opens_perf_events and not is_perfmon_enough()
        privileges.limit_capabilities(capabilities_to_keep(effective_capabilities(), needs_admin=needs_admin))
        _report(start_lines(settings, hooks, targets, is_settled=watcher.is_settled))
        if needs_admin:
            _report([KEEPS_ADMIN])
        watcher.run(stop)
        deadline = time.monotonic_ns() + settings.shutdown_timeout_ns
        watcher.stop(deadline, "asked to stop")
    finally:
        watcher.close()
    return _await_exporter(exporter_pid, deadline)


def require_rights(held: frozenset[str]) -> None:
    """Before anything is done; what else the host may lack shows when it is tried."""
    if lacking := lacking_rights(held):
        what, remedy = lacking
        raise PreflightError(f"this process has {what}", remedy)


def capabilities_to_keep(held: frozenset[str], *, needs_admin: bool = False) -> frozenset[str]:
    """CAP_SYS_ADMIN only where it must stand for the two that were once part of it, or the kernel asks for it later on."""
    is_split = {"CAP_BPF", "CAP_PERFMON"} <= held
    return PROBE_CAPABILITIES if is_split and not needs_admin else PROBE_CAPABILITIES | {"CAP_SYS_ADMIN"}


def start_lines(settings: Settings, hooks: SocketHooks, targets: list[Target], *, is_settled: bool = True) -> list[str]:
    """What a person wants to know once the agent works. `is_settled`: see Watcher."""
    services = sorted({target.service_pid for target in targets})
    lines = [f"watching {len(targets)} processes of {len(services)} services; hooks: {hooks.text} ({hooks.why})"]
    if not is_settled:
        lines[0] += f"; {UNSETTLED}"
    if settings.otlp is not None:
        lines.append(f"sending spans to {settings.otlp.endpoint_for_people} by {settings.otlp.protocol}")
    if settings.metrics.otlp is not None:
        lines.append(
            f"sending metrics to {settings.metrics.otlp.endpoint_for_people} by {settings.metrics.otlp.protocol}"
        )
    if settings.metrics.prometheus is not None:
        host, port = settings.metrics.prometheus
        lines.append(f"Prometheus scrapes {host or 'any address'}, port {port}, {settings.metrics.prometheus_path}")
    if not targets:
        lines.append("nothing to watch is running yet. Start a service, for example: python3 -m http.server 8000")
        lines.append("and ask it something: curl http://127.0.0.1:8000/")
    return lines


def open_new_file(path: Path) -> int:
    """For root alone to read, while there is root to make it; what is there already is never overwritten."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AgentError(f"cannot record to {path}: it exists", "Name a new file, or move this one away.") from None
    except OSError as error:
        raise AgentError(f"cannot record to {path}: {error.strerror}", "Name a file in a folder that exists.") from None


def _remove_if_empty(path: Path) -> None:
    """A start that failed leaves nothing in the way of the next one."""
    with contextlib.suppress(OSError):  # somebody else has moved or removed it
        if path.lstat().st_size == 0:
            path.unlink()


def _fork_exporter(settings: Settings, recording: OpenRecording | None) -> tuple[socket.socket, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        theirs.close()
        if recording is not None:
            os.close(recording.descriptor)
        ours.settimeout(_CHANNEL_TIMEOUT_SECONDS)
        return ours, pid
    status = 1
    try:
        ours.close()
        status = _run_exporter(settings, theirs, recording)
    except AgentError as error:
        sys.stderr.write(error_text(error) + "\n")
        status = error.exit_code
    except BaseException:  # noqa: BLE001 - this process ends here, and must not unwind into the probe's code
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):  # who read the output may have left
            sys.stdout.flush()
        os._exit(status)


def _run_exporter(settings: Settings, channel: socket.socket, recording: OpenRecording | None) -> int:
    from otel_ebpf.export.process import Exporter  # in this process alone: it brings 30 MB

    privileges.set_process_name("otel-ebpf-exporter")
    exporter = Exporter(settings, recording)
    privileges.drop_to_user(settings.user)
    return exporter.run(channel)


def _hand_over(channel: socket.socket, loaded: Loaded) -> None:
    descriptors = [loaded.maps["records"].fd, loaded.maps["progress"].fd]
    try:
        socket.send_fds(channel, [b"maps"], descriptors)
        if not channel.recv(64):
            raise PeerLostError("the exporter has ended", "Its last message, above, says why.")
    except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
        raise PeerLostError("the exporter has ended", "Its last message, above, says why.") from error


def _await_exporter(pid: int, deadline_monotonic_ns: int) -> int:
    """It ends by itself; if it does not, that is told and not waited for."""
    last = deadline_monotonic_ns / 1e9 + _EXPORTER_GRACE_SECONDS
    is_over = False
    while not is_over:
        is_over = (
            time.monotonic() >= last
        )  # and then it is looked at once more: this process may have been held up itself
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    raise AgentError("the exporter did not end in time", "What it had not sent is lost; its output says how much.")


def _how_it_ended(pid: int) -> str:
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return "has ended"
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        time.sleep(0.005)
    return "has closed its channel"


def _report(lines: list[str]) -> None:
    for line in lines:
        sys.stderr.write(f"otel-ebpf: {line}\n")
