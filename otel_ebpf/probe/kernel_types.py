"""Where the running kernel's types come from: its own BTF, else headers of exactly this kernel, else nowhere.

In:   /sys/kernel/btf/vmlinux, /lib/modules
Out:  KernelTypes, or a PreflightError that says what is missing
Owns: nothing

Headers of another version are never accepted: programs compiled with them load, and read the wrong bytes.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from otel_ebpf.errors import PreflightError

BTF_PATH = Path("/sys/kernel/btf/vmlinux")
MODULES_FOLDER = Path("/lib/modules")

_RELEASE = re.compile(r'^#define UTS_RELEASE "([^"]*)"', re.MULTILINE)


class KernelName(NamedTuple):
    """As uname tells it; the version has the number and date of the build."""

    release: str
    version: str
    machine: str


RUNNING = KernelName(os.uname().release, os.uname().version, os.uname().machine)


class KernelTypes(NamedTuple):
    """Exactly one of the first two is set."""

    btf: bytes | None
    headers: Path | None  # the build folder
    kernel: KernelName = RUNNING

    @property
    def evidence(self) -> bytes:
        """What identifies these types: equal evidence, equal types."""
        if self.btf is not None:
            return self.btf
        assert self.headers is not None
        release = _release_file(self.headers)
        return f"{self.headers.resolve()} {release.read_text()} {release.stat().st_mtime_ns}".encode()


def find_kernel_types(btf_path: Path = BTF_PATH, modules_folder: Path = MODULES_FOLDER) -> KernelTypes:
    try:
        return KernelTypes(btf_path.read_bytes(), None)
    except FileNotFoundError:
        pass  # a kernel built without BTF
    except OSError as error:
        raise PreflightError(
            f"cannot read the kernel's type information {btf_path}: {error.strerror}", "Run as root."
        ) from error
    running = RUNNING.release
    build = modules_folder / running / "build"
    found = headers_release(build)
    if found == running:
        return KernelTypes(None, build)
    remedy = f"Boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or install the headers of exactly {running}"
    remedy += f" (Debian, Ubuntu: apt install linux-headers-{running})."
    if found is None:
        raise PreflightError(f"this kernel has no type information ({btf_path}), and {build} has no headers", remedy)
    raise PreflightError(
        f"this kernel has no type information ({btf_path}), and the headers in {build} are of {found}, not {running}",
        remedy,
    )


def headers_release(build: Path) -> str | None:
    """Release of the kernel that these headers were configured for; None when there are none."""
    try:
        found = _RELEASE.search(_release_file(build).read_text())
    except OSError:
        return None  # no such folder, or not configured: no headers either way
    return found[1] if found else None


def _release_file(build: Path) -> Path:
    return build / "include/generated/utsrelease.h"
