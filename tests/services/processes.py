"""Starts programs for tests, waits until they are ready, and ends exactly those.

In:   a command
Out:  a running process that `ended` ends, by its own process group
Owns: the processes it started

Every wait polls with a deadline.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

CHECKOUT = Path(__file__).resolve().parents[2]
VENV_BIN = CHECKOUT / ".venv" / "bin"
T = TypeVar("T")
given_ports: set[int] = set()  # whoever asked for one may not listen on it yet


def wait_until(ask: Callable[[], T], what: str, *, seconds: float = 60.0, every_s: float = 0.02) -> T:
    """The first true answer; AssertionError with `what` when there is none in time.

    Generous, because only a failure waits for so long; and asked once more afterwards, for this process may have been
    held up itself."""
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= deadline
        answer = ask()
        if answer:
            return answer
        assert not is_last, f"not within {seconds} s: {what}"
        time.sleep(every_s)


def free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    """Below the range that the kernel gives out itself, so that no client's own port takes it meanwhile; never one twice."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    for _ in range(200):
        port = random.randint(20000, 32000)
        if port in given_ports:
            continue
        with socket.socket(family) as attempt:
            try:
                attempt.bind((host, port))
            except OSError:
                continue
            given_ports.add(port)
            return port
    raise AssertionError("no free port between 20000 and 32000")


def is_listening(address: tuple[str, int] | str) -> bool:
    """Asks by connecting: a socket file may be there before its server listens."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as attempt:
        attempt.settimeout(10)
        try:
            attempt.connect(address)
        except OSError:
            return False
        return True


def environment(**more: str) -> dict[str, str]:
    """What a service runs with: this checkout importable, and none of the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "HTTP", "http"))}
    return {**kept, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **more}


def start(
    command: list[str], *, log: Path | None = None, env: dict[str, str] | None = None, cwd: Path = CHECKOUT
) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that `end` reaches its workers and nothing else."""
    with open(log or os.devnull, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env or environment(),
            cwd=cwd,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], *, seconds: float = 10.0) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            print(f"{process.args!r} ignored SIGTERM for {seconds} s", file=sys.stderr)
    try:
        os.killpg(process.pid, signal.SIGKILL)  # workers that outlived their master
    except ProcessLookupError:
        return
    process.wait(seconds)


@contextmanager
def running(
    command: list[str],
    address: tuple[str, int] | str,
    *,
    log: Path,
    env: dict[str, str] | None = None,
    seconds: float = 60.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once it listens on the address."""
    process = start(command, log=log, env=env)
    try:
        wait_until(
            lambda: is_listening(address) or process.poll() is not None,
            f"{command} listens on {address}; see {log}",
            seconds=seconds,
        )
        assert process.poll() is None, f"{command} ended: {log.read_text(errors='replace')[-2000:]}"
        yield process
    finally:
        end(process)


def children_of(pid: int) -> list[int]:
    """Direct children, by the kernel's own list."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except FileNotFoundError:  # the thread ended meanwhile
            continue
    return found


def descendants_of(pid: int) -> list[int]:
    found = []
    waiting = children_of(pid)
    while waiting:
        found.append(waiting.pop())
        try:
            waiting += children_of(found[-1])
        except FileNotFoundError:
            continue
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def status_field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise AssertionError(f"/proc/{pid}/status has no {name}")
