"""Runs a command under another kernel: in a QEMU guest, as root, on what looks like this host's root file system.

In:   a Kernel, a command
Out:  its output as it comes, and its exit status; GuestError when the guest does not get that far, or not in time
Owns: the guest, what serves the host's files to it, and a folder; all are gone when `run_in_guest` returns, the processes
      also when this one is killed

What a guest writes goes into its memory. The host's files are served by a process that cannot write any of them, and
there is no network but the guest's own loopback.

The processor is emulated (TCG), on purpose: that works wherever tests run, in virtual machines without nesting too, and
it can count instructions.
"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from tests.services.processes import CHECKOUT
from tests.vm.initramfs import initramfs
from tests.vm.kernels import Kernel
from tools.distribution import VIRTIOFSD

QEMU = "qemu-system-x86_64"
LAUNCH = Path(__file__).with_name("launch.py")
FIRST_PROCESS = Path(__file__).with_name("first_process.sh")
CONSOLE_LINES = 25
ENDING_SECONDS = 20


class GuestError(Exception):
    """The guest did not run the command to its end; says why, with the last lines of its console."""


class Machine(NamedTuple):
    """What the guest has."""

    processors: int = 2
    memory_mb: int = 2048
    counts_instructions: bool = False  # its clock is then the number of instructions, a nanosecond each


DEFAULT = Machine()


def run_in_guest(
    kernel: Kernel,
    command: Sequence[str],
    *,
    timeout_seconds: float,
    environment: dict[str, str] | None = None,
    output: IO[bytes] | None = None,
    machine: Machine = DEFAULT,
) -> int:
    """In this checkout's folder. `output` None is standard output."""
    with tempfile.TemporaryDirectory(prefix="otel-ebpf-vm-") as name:
        folder = Path(name)
        shutil.copy(FIRST_PROCESS, folder)
        (folder / "modules").write_text(f"{kernel.modules}\n")
        (folder / "command").write_text(_script(command, environment or {}))
        with _served_files(folder) as files:
            return _boot(kernel, folder, files, timeout_seconds, output, machine)


def _script(command: Sequence[str], environment: dict[str, str]) -> str:
    # A checkout that is only read needs no bytecode of Python's in it.
    settings = {"PYTHONDONTWRITEBYTECODE": "1", **environment}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*lines, f"cd {shlex.quote(str(CHECKOUT))}", f"exec {shlex.join(command)}", ""])


@contextmanager
def _served_files(folder: Path) -> Iterator[Path]:
    """The socket at which a guest finds this host's root file system."""
    server = next((path for path in VIRTIOFSD if Path(path).exists()), None)
    if server is None:
        raise GuestError("virtiofsd is missing: make setup-vm installs it")
    address = folder / "files.sock"
    with socket.socket(socket.AF_UNIX) as listener, open(folder / "files.log", "wb") as log:
        listener.bind(str(address))
        listener.listen()
        command = ["--read-only", server, f"--fd={listener.fileno()}"]
        command += ["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot", "--thread-pool-size=2"]
        process = _start(command, stdout=log, stderr=log, pass_fds=(listener.fileno(),))
    try:
        yield address
    finally:
        _end(process)


def _boot(
    kernel: Kernel, folder: Path, files: Path, timeout_seconds: float, output: IO[bytes] | None, machine: Machine
) -> int:
    console, status = folder / "console", folder / "status"
    # On a busy host the emulated timer is late, and the kernel takes it for broken while it boots.
    arguments = ["console=ttyS0", "quiet", "loglevel=4", "panic=-1", "mitigations=off", "no_timer_check"]
    arguments.append(f"otel_ebpf_vm={folder}")
    command = [
        QEMU,
        "-M",
        "q35",
        "-cpu",
        "max,la57=off",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]
    if machine.counts_instructions:
        command += ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
    else:
        command += ["-accel", "tcg,thread=multi"]
    command += ["-smp", str(machine.processors), "-m", f"{machine.memory_mb}M", "-nic", "none"]
    command += ["-object", f"memory-backend-memfd,id=memory,size={machine.memory_mb}M,share=on"]
    command += ["-numa", "node,memdev=memory", "-chardev", f"socket,id=files,path={files}"]
    command += ["-device", "vhost-user-fs-pci,chardev=files,tag=host"]
    command += ["-serial", f"file:{console}", "-serial", "stdio", "-serial", f"file:{status}"]
    command += ["-kernel", str(kernel.image), "-initrd", str(initramfs(kernel)), "-append", " ".join(arguments)]
    with open(folder / "qemu.log", "wb") as log:
        process = _start(command, stdout=output, stderr=log)
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise _error(folder, f"no end within {timeout_seconds:g} s") from None
        finally:
            _end(process)
    said = status.read_text().strip() if status.exists() else ""
    if not said:
        raise _error(folder, "the guest ended before its command")
    return int(said)


def _start(
    command: list[str], *, pass_fds: tuple[int, ...] = (), **streams: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Ends with this process, whatever ends that."""
    command = [sys.executable, str(LAUNCH), str(os.getpid()), *command]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=pass_fds, **streams)  # type: ignore[call-overload, no-any-return]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _error(folder: Path, what: str) -> GuestError:
    said = []
    for name in ("qemu.log", "files.log", "console"):
        path = folder / name
        if path.exists():
            said += [f"  {name}: {line}" for line in path.read_text(errors="replace").splitlines()[-CONSOLE_LINES:]]
    return GuestError("\n".join([what, *said]))
