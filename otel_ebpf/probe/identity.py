"""The facts that name a service, read from /proc of the process that leads it.

In:   a process number; for a process that has ended since, the kernel's word of its exec
Out:  ServiceIdentity, raw and within bounds; None when the process is gone
Owns: the bounds, and what is read of a foreign environment: two variables, nothing else
"""

import os
import time

from otel_ebpf.probe.procfs import ListeningPorts, Procfs
from otel_ebpf.records.frames import MAX_PORTS, cut_arguments, cut_environ
from otel_ebpf.records.kinds import ProcessEvent, ServiceIdentity

VARIABLES = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")
_ENVIRON_BYTES = 1 << 20  # of /proc/PID/environ that are looked through
_ARGV_BYTES = 8192
_VALUE_BYTES = 8192
_PATH_BYTES = 4096
_PASSWD_BYTES = 1 << 20


def identify(pid: int, procfs: Procfs, passwd_path: str = "/etc/passwd") -> ServiceIdentity | None:
    before = procfs.stat(pid)
    if before is None or before.is_dead:
        return None
    identity = ServiceIdentity(
        pid=pid,
        start_ticks=before.start_ticks,
        command=before.command,
        executable=(procfs.executable(pid) or b"")[:_PATH_BYTES],
        argv=cut_arguments(procfs.arguments(pid, _ARGV_BYTES) or (), _ARGV_BYTES),
        environ=cut_environ(procfs.variables(pid, VARIABLES, _ENVIRON_BYTES) or {}, _VALUE_BYTES),
        working_directory=(procfs.working_directory(pid) or b"")[:_PATH_BYTES],
        container_id=procfs.container_id(pid) or "",
        listening_ports=tuple(sorted(set(ListeningPorts(procfs).held_by(pid).values())))[:MAX_PORTS],
        owner=_owner(pid, procfs, passwd_path),
    )
    after = procfs.stat(pid)
    # While its files were read, it may have ended, or its number been given to another process.
    is_the_same = after is not None and not after.is_dead and after.start_ticks == before.start_ticks
    return identity if is_the_same else None


def identify_as_told(event: ProcessEvent, executable: bytes) -> ServiceIdentity:
    """Of a process that ended before it could be looked at. `executable`: where the file is that it ran, b"" if unknown."""
    return ServiceIdentity(
        pid=event.pid,
        # When this was heard: as good as its start to tell it from others that had or will have the same number.
        start_ticks=int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")),
        command=event.command,
        executable=executable[:_PATH_BYTES],
        argv=(),
        environ={},
        working_directory=b"",
        container_id="",
        listening_ports=(),
        owner="",
    )


def _owner(pid: int, procfs: Procfs, passwd_path: str) -> str:
    """The user's name where the process has this host's users, else the number; "" when not known.

    /etc/passwd is read as a file: asking the system for users may load and ask a directory service, in a privileged
    process that must not wait.
    """
    uid = procfs.user_id(pid)
    if uid is None:
        return ""
    if procfs.has_root_of(pid):
        try:
            with open(passwd_path, "rb") as file:
                lines = file.read(_PASSWD_BYTES).splitlines()
        except OSError:
            lines = []
        for line in lines:
            fields = line.split(b":")
            if len(fields) > 2 and fields[2] == str(uid).encode():
                return fields[0].decode("utf-8", "replace")
    return str(uid)
