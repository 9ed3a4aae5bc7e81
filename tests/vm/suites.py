"""Runs tests on a kernel, the host's own or a guest's, and tells what came out.

In:   a kernel's name, which hooks, arguments for pytest
Out:  Outcome
Owns: nothing once it returns; see guest.py
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, NamedTuple

from otel_ebpf.probe.programs import SocketBackend
from tests.end_to_end.hooks import SOCKET_BACKEND
from tests.services.bytecode import SETTING
from tests.services.processes import CHECKOUT
from tests.vm.bytecode import compiled_for
from tests.vm.guest import GuestError, run_in_guest
from tests.vm.kernels import find_kernel

NATIVE = "native"
NO_CACHE = ("-p", "no:cacheprovider")  # of pytest, in the checkout


class Outcome(NamedTuple):
    kernel: str
    release: str
    backend: SocketBackend
    passed: int
    failed: int  # errors too
    skipped: int
    seconds: float
    said: str

    @property
    def is_good(self) -> bool:
        return bool(self.passed) and not self.failed and not self.skipped


def run_tests(
    kernel: str,
    backend: SocketBackend,
    pytest_arguments: Sequence[str],
    *,
    timeout_seconds: float,
    is_shown: bool = False,
) -> Outcome:
    """`is_shown`: on standard error, too, as it comes."""
    python = str(CHECKOUT / ".venv" / "bin" / "python")
    command = [python, "-m", "pytest", "-q", *NO_CACHE, *pytest_arguments]
    settings = {"OTEL_EBPF_TESTS": "all", SOCKET_BACKEND: backend.value}
    began = time.monotonic()
    with tempfile.NamedTemporaryFile() as log:
        with shown(Path(log.name)) if is_shown else nullcontext(log.file) as output:
            if kernel == NATIVE:
                release, trouble = os.uname().release, _run_here(command, settings, output, timeout_seconds)
            else:
                found = find_kernel(kernel)
                settings[SETTING] = str(compiled_for(found, backend))
                release, trouble = found.release, ""
                command.append("--basetemp=/run/pytest")  # what earlier runs have left here is no concern of a guest's
                try:
                    run_in_guest(found, command, timeout_seconds=timeout_seconds, environment=settings, output=output)
                except GuestError as error:
                    trouble = str(error)
        log.seek(0)
        said = log.read().decode(errors="replace") + trouble
    passed, failed, skipped = counts_of(said)
    seconds = time.monotonic() - began
    return Outcome(kernel, release, backend, passed, failed + bool(trouble), skipped, seconds, said)


@contextmanager
def shown(log: Path) -> Iterator[IO[bytes]]:
    """What is written there goes into the file and, as it comes, to standard error."""
    with subprocess.Popen(["tee", str(log)], stdin=subprocess.PIPE, stdout=sys.stderr) as tee:
        assert tee.stdin is not None
        yield tee.stdin


def _run_here(command: list[str], settings: dict[str, str], output: IO[bytes], timeout_seconds: float) -> str:
    environment = {**os.environ, **settings}
    try:
        subprocess.run(
            command,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {timeout_seconds:g} s"
    return ""


def counts_of(said: str) -> tuple[int, int, int]:
    """Passed, failed, skipped, from pytest's last line: `635 passed, 1 failed in 334.07s (0:05:34)`."""
    last = said.rstrip().rpartition("\n")[2]
    if " in " not in last:
        return 0, 1, 0  # it did not come to its end
    counts = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", last.partition(" in ")[0])}
    failed = sum(counts.get(word, 0) for word in ("failed", "error", "errors"))
    return counts.get("passed", 0), failed, counts.get("skipped", 0)
