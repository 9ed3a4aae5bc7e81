"""What this host has, and what it lacks: everything at once, each lack with its remedy.

In:   the kernel's files under `root`, and the kernel itself by trying
Out:  findings, in the order in which they are best mended
Owns: nothing; nothing stays attached or open

Runs without root too, and then says what it could not find out.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from otel_ebpf.errors import AgentError
from otel_ebpf.probe import bpf, cache, kernel_features
from otel_ebpf.probe.capabilities import effective_capabilities, lacking_rights
from otel_ebpf.probe.compiler import identify_bcc
from otel_ebpf.probe.kernel_types import headers_release
from otel_ebpf.probe.programs import LASTING_PROGRAMS, SOCKET_PROGRAMS, SocketBackend
from otel_ebpf.probe.socket_hooks import AUTO, choose_hooks
from otel_ebpf.probe.uprobes import UprobeForm, available_forms

OLDEST_KERNEL = (5, 10)
_ARCHITECTURES = ("x86_64", "aarch64")
_LINKED_ON = "x86_64"
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, the same in all kernels
FORM_TEXTS = {
    UprobeForm.SESSION: "sessions: one probe for a call and its return (Linux 6.13)",
    UprobeForm.MULTI: "several places in one attachment (Linux 6.6)",
    UprobeForm.PERF: "one perf event for each place: to detach takes 0.1 s each (Linux 5.15)",
}
_UPROBES_REMEDY = "Linux 5.15 or later with CONFIG_UPROBE_EVENTS=y, and CAP_PERFMON, are needed for"
_AS_ROOT = "Run `otel-ebpf check` as root."
_NODE, _NGINX = "Node", "nginx"
# Whose calls belong to the requests that caused them, as the tables say in python_watch.py and go_program.py.
LINKED = {
    "Python": "CPython 3.8 to 3.13 with glibc, later ones where their layout proves itself",
    _NGINX: "executables of the name nginx, openresty, angie, freenginx or tengine, that wait by epoll",
    "Go": "programs made by Go 1.21 to 1.27",
    _NODE: "builds of nodejs.org",
}
_NODE_MODES = {
    "ids": "; not behind an await, unless OTEL_EBPF_NODE_PARENTS=promises",
    "promises": ", also behind an await",
}


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    required: bool  # the agent does not start without it
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """Where to look; another `root` makes another host of it."""

    root: Path = Path("/")
    bcc_python: str | None = None
    cache_dir: Path | None = cache.DEFAULT_FOLDER
    socket_backend: str = AUTO
    parents: str = "normal"
    node_parents: str = "ids"

    def read(self, path: str) -> str | None:
        """None when the file is not there or may not be read."""
        try:
            return (self.root / path).read_text().strip()
        except OSError:
            return None


def examine(host: Host) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(host)]


def rights(host: Host) -> list[Finding]:
    user = os.geteuid()
    lacking = lacking_rights(effective_capabilities())
    if lacking is None:
        return [Finding("rights", True, True, "root" if user == 0 else f"user {user} with the capabilities needed")]
    what, remedy = lacking
    return [Finding("rights", False, True, what, remedy)]


def kernel(host: Host) -> list[Finding]:
    uname = os.uname()
    found = re.match(r"(\d+)\.(\d+)", uname.release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    oldest = ".".join(map(str, OLDEST_KERNEL))
    return [
        Finding(
            "kernel",
            version >= OLDEST_KERNEL,
            True,
            f"{uname.release}, {uname.version}",
            f"Linux {oldest} or later is needed.",
        ),
        Finding(
            "architecture",
            uname.machine in _ARCHITECTURES,
            True,
            uname.machine,
            f"Supported are {' and '.join(_ARCHITECTURES)}.",
        ),
    ]


def bpf_maps(host: Host) -> list[Finding]:
    remedy = "Linux 5.8 or later with CONFIG_BPF_SYSCALL=y is needed."
    tries: dict[str, Callable[[], OSError | None]] = {
        "ring buffer": kernel_features.try_ring_buffer,
        "mapped array": kernel_features.try_mapped_array,
        "LRU hash": kernel_features.try_lru_hash,
    }
    return [_tried(name, attempt(), "BPF maps of this kind can be made", remedy) for name, attempt in tries.items()]


def raw_tracepoints(host: Host) -> list[Finding]:
    names = [row.attach_to for row in (*SOCKET_PROGRAMS[SocketBackend.TRACEPOINT], *LASTING_PROGRAMS) if row.attach_to]
    refused = kernel_features.try_raw_tracepoints(names)
    remedy = "A kernel with CONFIG_BPF_EVENTS=y, CONFIG_FTRACE=y and tracepoints is needed."
    return [
        _tried(f"tracepoint {name}", refused.get(name), "programs can be attached", remedy)
        for name in dict.fromkeys(names)
    ]


def kernel_types(host: Host) -> list[Finding]:
    path = host.root / "sys/kernel/btf/vmlinux"
    if path.exists():
        readable = os.access(path, os.R_OK)
        detail = f"BTF in {path}: kernel headers are not needed" if readable else f"{path} cannot be read"
        return [Finding("kernel types", readable, True, detail, _AS_ROOT)]
    release = os.uname().release
    build = host.root / "lib/modules" / release / "build"
    found = headers_release(build)
    remedy = f"Boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or install linux-headers-{release}."
    if found == release:
        return [Finding("kernel types", True, True, f"no BTF, but headers of exactly this kernel in {build}")]
    detail = f"no BTF, and the headers in {build} are of {found}" if found else f"no BTF, and no headers in {build}"
    return [Finding("kernel types", False, True, detail, remedy)]


def bcc(host: Host) -> list[Finding]:
    try:
        compiler = identify_bcc(host.bcc_python)
    except AgentError as error:
        return [Finding("bcc", False, True, error.what, error.remedy)]
    return [Finding("bcc", True, True, f"{compiler.bcc_version}, imported by {compiler.python}")]


def lockdown(host: Host) -> list[Finding]:
    modes = host.read("sys/kernel/security/lockdown")
    if modes is None:
        return [Finding("lockdown", True, True, "not in use, or not visible")]
    active = re.search(r"\[(\w+)\]", modes)
    mode = active[1] if active else modes
    remedy = "Mode confidentiality forbids BPF to read memory: boot with lockdown=integrity, or without Secure Boot."
    return [Finding("lockdown", mode != "confidentiality", True, mode, remedy)]


def optional_hooks(host: Host) -> list[Finding]:
    """Hooks for what comes beyond plain HTTP through system calls."""
    devices = host.root / "sys/bus/event_source/devices"
    places = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
    # Closed to others than root on some hosts, which Path.is_dir raises.
    tracing = next((place for place in places if os.path.isdir(host.root / place / "events")), None)
    return [
        Finding(
            "kprobes",
            (devices / "kprobe").is_dir(),
            False,
            "available" if (devices / "kprobe").is_dir() else "not in this kernel: hooks are on system calls instead",
            "A kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y makes other processes cheaper.",
        ),
        Finding(
            "tracefs",
            tracing is not None,
            False,
            f"mounted at /{tracing}" if tracing else "not mounted, or not visible",
            "Kprobes need it; `mount -t tracefs tracefs /sys/kernel/tracing` mounts it.",
        ),
    ]


def socket_backend(host: Host) -> list[Finding]:
    """Kprobes are really made, and removed again."""
    if lacking_rights(effective_capabilities()) is not None:
        return [Finding("socket backend", False, False, "not known without root", _AS_ROOT)]
    try:
        hooks = choose_hooks(host.socket_backend)
    except AgentError as error:
        return [Finding("socket backend", False, True, error.what, error.remedy)]
    hooks.close()
    return [Finding("socket backend", True, True, f"{hooks.text}: {hooks.why}")]


def uprobes(host: Host) -> list[Finding]:
    """By attaching to an instruction that nobody runs."""
    form = next(available_forms(), None)
    detail = (
        "none that this kernel and these rights allow: neither TLS nor lookups of names are seen"
        if form is None
        else FORM_TEXTS[form]
    )
    found = Finding("uprobes", form is not None, False, detail, f"{_UPROBES_REMEDY} TLS and lookups of names.")
    return [found, *(_links(host, runtime, form) for runtime in LINKED)]


def _links(host: Host, runtime: str, form: UprobeForm | None) -> Finding:
    """Whether it is known here which request caused a call. What is found in a program is told once it runs."""
    name, machine = f"links in {runtime}", os.uname().machine
    off = "OTEL_EBPF_PARENTS" if host.parents == "off" else ""
    if runtime == _NODE and host.node_parents == "off":
        off = off or "OTEL_EBPF_NODE_PARENTS"
    if off:
        return Finding(name, True, False, f"switched off by {off}")
    if machine != _LINKED_ON:
        return Finding(name, False, False, f"not on {machine}: its calls have no parent", "They are known on x86-64.")
    if form is None and runtime != _NGINX:  # which bears none
        return Finding(name, False, False, "no uprobes: its calls have no parent", f"{_UPROBES_REMEDY} them.")
    return Finding(name, True, False, LINKED[runtime] + (_NODE_MODES[host.node_parents] if runtime == _NODE else ""))


def restrictions(host: Host) -> list[Finding]:
    """Settings that matter only to a process without all rights; told, so that nobody has to look."""
    has_rights = lacking_rights(effective_capabilities()) is None
    paranoid = host.read("proc/sys/kernel/perf_event_paranoid")
    unprivileged = host.read("proc/sys/kernel/unprivileged_bpf_disabled")
    with_rights = "does not concern a process with these rights" if has_rights else "closes BPF without CAP_PERFMON"
    return [
        Finding(
            "perf_event_paranoid",
            has_rights or paranoid in ("-1", "0", "1"),
            False,
            f"{paranoid}: {with_rights}",
            _AS_ROOT,
        ),
        Finding(
            "unprivileged_bpf_disabled",
            has_rights or unprivileged == "0",
            False,
            f"{unprivileged}: {with_rights}",
            _AS_ROOT,
        ),
    ]


def container(host: Host) -> list[Finding]:
    try:
        namespace = os.readlink(host.root / "proc/self/ns/pid")
    except OSError as error:
        return [Finding("processes", False, False, f"/proc/self/ns/pid: {error.strerror}", "Mount /proc.")]
    if namespace == _FIRST_PID_NAMESPACE:
        return [Finding("processes", True, False, "all of this host are visible")]
    remedy = "To watch the host, share its processes: `docker run --pid=host`, or `hostPID: true` in Kubernetes."
    return [Finding("processes", False, False, "only those of this container are visible", remedy)]


def bytecode_cache(host: Host) -> list[Finding]:
    if host.cache_dir is None:
        return [Finding("bytecode cache", True, False, "switched off: every start compiles")]
    usable, detail = cache.describe(host.cache_dir)
    remedy = f"`chown root: {host.cache_dir}; chmod 700 {host.cache_dir}`, or name another folder."
    return [Finding("bytecode cache", usable, False, detail, remedy if os.geteuid() == 0 else _AS_ROOT)]


CHECKS: tuple[Callable[[Host], list[Finding]], ...] = (
    rights,
    kernel,
    lockdown,
    kernel_types,
    bcc,
    bpf_maps,
    raw_tracepoints,
    optional_hooks,
    socket_backend,
    uprobes,
    restrictions,
    container,
    bytecode_cache,
)


def _tried(name: str, error: OSError | None, detail: str, remedy: str) -> Finding:
    if error is None:
        return Finding(name, True, True, detail)
    if bpf.is_missing_right(error):
        return Finding(name, False, True, "not known without root", _AS_ROOT)
    return Finding(name, False, True, f"the kernel refuses: {error.strerror}", remedy)
