"""Which rights this process has, as the kernel lists them.

In:   /proc/self/status
Out:  names of the effective capabilities
Owns: nothing
"""

from pathlib import Path

# Numbers from include/uapi/linux/capability.h.
CAPABILITY_NUMBERS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

# Any one of each row is enough; what it is for.
NEEDED = (
    (("CAP_BPF", "CAP_SYS_ADMIN"), "load BPF programs"),
    (("CAP_PERFMON", "CAP_SYS_ADMIN"), "read kernel memory and attach to tracepoints"),
    (("CAP_SYS_PTRACE",), "see what other users' processes run"),
    (("CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"), "read other users' files under /proc"),
    (("CAP_SETUID",), "make the exporter an unprivileged user"),
    (("CAP_SETGID",), "make the exporter leave root's groups"),
)


def effective_capabilities(status: Path = Path("/proc/self/status")) -> frozenset[str]:
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            bits = int(value, 16)
            return frozenset(name for name, number in CAPABILITY_NUMBERS.items() if bits >> number & 1)
    raise ValueError(f"{status} has no line CapEff")


def missing(capabilities: frozenset[str]) -> list[tuple[str, str]]:
    """(capability to add, what for) of everything that is lacking."""
    return [(names[0], purpose) for names, purpose in NEEDED if not capabilities.intersection(names)]
