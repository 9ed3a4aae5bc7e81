"""Installs what this checkout needs from the distribution: Debian 12, Ubuntu 24.04 and what is like them.

In:   what for: `run`, `check`, `test`, `vm`, `kafka` or `fuzz`
Out:  the packages are there, or SetupError with the command to run by hand
Owns: the table of packages

A package counts as present when what it is wanted for can be found, whoever installed it (Go and Node often come from
elsewhere). apt is asked only when something is missing, because its lists may be empty or old.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Programs that root finds but another user's PATH often lacks.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/go/bin"])
POLICY = Path("/usr/sbin/policy-rc.d")
VIRTIOFSD = (
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/virtiofsd",
)  # a part of QEMU up to 7.2, a package of its own since


class SetupError(Exception):
    """Says what could not be installed and how to do it by hand."""


def has_module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def has_program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=SEARCH_PATH) is not None


def is_static(program: str) -> Callable[[], bool]:
    """It runs where no library is, and so names no loader."""
    return lambda: Path(program).exists() and b"/ld-linux" not in Path(program).read_bytes()


RUN = {"python3-bpfcc": has_module("bcc"), "python3-venv": has_module("ensurepip")}
CHECK = {
    "python3-venv": has_module("ensurepip"),
    "gcc": has_program("gcc"),
    "libc6-dev": Path("/usr/include/stdio.h").exists,
}


def has_virtiofsd() -> bool:
    """True, too, where it comes with QEMU's package and has none of its own."""
    try:
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME")
    except OSError:
        codename = None
    return codename in ("bullseye", "bookworm", "jammy") or any(Path(path).exists() for path in VIRTIOFSD)


# What tests/vm boots other kernels with.
VM = {
    **RUN,
    **CHECK,
    "busybox-static": is_static("/bin/busybox"),
    "cpio": has_program("cpio"),
    "debian-archive-keyring": Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists,
    "kmod": has_program("depmod"),
    "lz4": has_program("lz4"),
    "qemu-system-x86": has_program("qemu-system-x86_64"),
    "virtiofsd": has_virtiofsd,
    "zstd": has_program("zstd"),
}
TEST = {
    **VM,
    "ca-certificates": Path("/etc/ssl/certs/ca-certificates.crt").exists,
    "curl": has_program("curl"),
    "gnutls-bin": has_program("gnutls-serv"),
    "golang-go": has_program("go"),
    "iproute2": has_program("ip"),
    "musl-tools": has_program("musl-gcc"),
    "nginx-light": has_program("nginx"),
    "nodejs": has_program("node"),
    "openssl": has_program("openssl"),
    "python3-pycurl": has_module("pycurl"),
    "wrk": has_program("wrk"),
}
KAFKA = {**TEST, "default-jre-headless": has_program("java"), "maven": has_program("mvn")}
NEEDED = {"run": RUN, "check": CHECK, "vm": VM, "test": TEST, "fuzz": CHECK, "kafka": KAFKA}

AGAIN = ("-o", "Acquire::Retries=3")  # a mirror may fail to answer once


def install_missing(level: str) -> None:
    missing = [package for package, is_there in NEEDED[level].items() if not is_there()]
    if not missing:
        return
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    by_hand = f"apt-get update && {' '.join(install)}"
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"missing: {', '.join(missing)} (Debian's names); install them with this system's package manager"
        )
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if as_root and shutil.which("sudo") is None:
        raise SetupError(f"missing: {', '.join(missing)}; as root run: {by_hand}")
    print(f"setup: installing {', '.join(missing)}", flush=True)
    with services_not_started(as_root) if "nginx-light" in missing else no_guard():
        for command in (["apt-get", "update", "-q"], install):
            environment = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1"]
            done = subprocess.run(
                [*as_root, *environment, *command, *AGAIN],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise SetupError(f"{' '.join(command)} failed; by hand: {by_hand}\n{done.stdout}{done.stderr}")
    importlib.invalidate_caches()
    still_missing = [package for package in missing if not NEEDED[level][package]()]
    if still_missing:
        raise SetupError(f"installed, yet not found: {', '.join(still_missing)}")


@contextmanager
def no_guard() -> Iterator[None]:
    yield


@contextmanager
def services_not_started(as_root: list[str]) -> Iterator[None]:
    """nginx's package would start a server on port 80, now and at each boot; the tests want only its program.

    Entered only when this host has no nginx, so no server of its owner's is touched.
    """
    had_policy = POLICY.exists()
    if not had_policy:
        script = "#!/bin/sh\nexit 101\n"
        subprocess.run([*as_root, "tee", str(POLICY)], input=script, text=True, stdout=subprocess.DEVNULL, check=True)
        subprocess.run([*as_root, "chmod", "755", str(POLICY)], check=True)
    try:
        yield
    finally:
        if not had_policy:
            subprocess.run([*as_root, "rm", "-f", str(POLICY)], check=True)
        if shutil.which("systemctl"):  # not at the next boot either
            subprocess.run([*as_root, "systemctl", "disable", "nginx.service"], capture_output=True, check=False)
