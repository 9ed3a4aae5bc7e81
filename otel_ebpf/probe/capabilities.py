"""Which rights this process has, as the kernel lists them.

In:   /proc/self/status
Out:  names of the effective capabilities
Owns: the table of capabilities, and which of them the agent needs
"""

from pathlib import Path

# Names by number, include/uapi/linux/capability.h.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITY_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES.split())}

# Any one of each row is enough; what it is for.
NEEDED = (
    (("CAP_BPF", "CAP_SYS_ADMIN"), "load BPF programs"),
    (("CAP_PERFMON", "CAP_SYS_ADMIN"), "read kernel memory and attach to tracepoints"),
    (("CAP_SYS_PTRACE",), "see what other users' processes run"),
    (("CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"), "read other users' files under /proc"),
    (("CAP_SETUID",), "make the exporter an unprivileged user"),
    (("CAP_SETGID",), "make the exporter leave root's groups"),
)


def capability_names(mask: int) -> frozenset[str]:
    """The names of a mask; numbers that are too new for the table as CAP_41 and so on."""
    by_number = {number: name for name, number in CAPABILITY_NUMBERS.items()}
    return frozenset(by_number.get(bit, f"CAP_{bit}") for bit in range(64) if mask >> bit & 1)


def effective_capabilities(status: Path = Path("/proc/self/status")) -> frozenset[str]:
    for line in status.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return capability_names(int(value, 16))
    raise ValueError(f"{status} has no line CapEff")


def lacking_rights(capabilities: frozenset[str]) -> tuple[str, str] | None:
    """What is lacking and what it is for, and the remedy; None when nothing is."""
    lacking = [(names[0], purpose) for names, purpose in NEEDED if not capabilities.intersection(names)]
    if not lacking:
        return None
    what = "; ".join(f"no {name} to {purpose}" for name, purpose in lacking)
    return what, f"Run as root; in a container, add {', '.join(name for name, _ in lacking)}."
