"""Facts about this host, read once at start.

In:   /etc/machine-id, uname
Out:  HostFacts
Owns: nothing
"""

import os
from pathlib import Path

from otel_ebpf.telemetry.resource import HostFacts

# As the conventions spell host.arch.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm32", "i686": "x86", "ppc64le": "ppc64"}
MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")


def read_host_facts() -> HostFacts:
    """What the agent knows of its host; an id that cannot be read is absent."""
    system = os.uname()
    return HostFacts(
        name=system.nodename,
        id=read_machine_id(MACHINE_ID_FILES),
        arch=ARCHITECTURES.get(system.machine, system.machine),
        os_type=system.sysname.lower(),
    )


def read_machine_id(paths: tuple[str, ...]) -> str:
    """The first of the files that holds an id; a host without one has none."""
    for path in paths:
        try:
            found = Path(path).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if found and found != "uninitialized":
            return found
    return ""
