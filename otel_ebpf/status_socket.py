"""The socket by which `otel-ebpf status` asks the agent that runs.

In:   a path
Out:  a listening socket for the agent; for who asks, the bytes that the agent sends
Owns: the file at the path and, if it is made here, its folder

Nothing is ever read from who connects: whoever may connect gets the document, and only root may, by the rights of the
folder and of the file. The path of an agent that was killed stays behind and is replaced by the next one.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from otel_ebpf.errors import AgentError

MAX_PATH_BYTES = 107  # of struct sockaddr_un
_BACKLOG = 4
_TIMEOUT_SECONDS = 3.0
_MAX_BYTES = 4 << 20


class StatusUnavailableError(AgentError):
    """There is no status to be had, or to be given."""


def listen_for_status(path: str) -> socket.socket:
    """Made as root, before rights are dropped. Raises StatusUnavailableError when another agent listens there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked_folder(path):
            _remove_stale(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise StatusUnavailableError(f"cannot listen at {path}: {error.strerror or error}") from error
    except StatusUnavailableError:
        listener.close()
        raise
    return listener


def remove_status_file(path: str) -> None:
    """At the end, once nobody listens; an agent that does keeps its own. What is left is replaced at the next start."""
    with contextlib.suppress(OSError, StatusUnavailableError), _locked_folder(path):
        _remove_stale(path)


def ask_status(path: str) -> bytes:
    """The document of the running agent."""
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            until = time.monotonic() + _TIMEOUT_SECONDS
            asking.settimeout(_TIMEOUT_SECONDS)
            asking.connect(path)
            while piece := asking.recv(1 << 16):
                received += piece
                asking.settimeout(max(0.001, until - time.monotonic()))  # for all of it, not for each piece
                if len(received) > _MAX_BYTES:
                    raise StatusUnavailableError(f"what listens at {path} sends without end: it is no agent")
    except (FileNotFoundError, ConnectionRefusedError):
        raise StatusUnavailableError(
            f"no agent listens at {path}",
            "Start one with `otel-ebpf run`. If its OTEL_EBPF_STATUS_SOCKET is another path, set the same here.",
        ) from None
    except PermissionError:
        raise StatusUnavailableError(f"may not ask at {path}", "Run `otel-ebpf status` as root.") from None
    except TimeoutError:
        raise StatusUnavailableError(
            f"the agent at {path} does not answer within {_TIMEOUT_SECONDS:.0f} s",
            "It answers once it has started; its own output tells.",
        ) from None
    except OSError as error:
        raise StatusUnavailableError(f"cannot ask at {path}: {error.strerror or error}") from error
    return bytes(received)


@contextlib.contextmanager
def _locked_folder(path: str) -> Iterator[None]:
    """Two agents that start at once must not both take a stale file for theirs. The folder must be ours alone to write."""
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StatusUnavailableError(f"the folder of {path} can be written by others")
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _remove_stale(path: str) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise StatusUnavailableError(f"{path} is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)  # a full backlog is an agent, too
        result = asking.connect_ex(path)
    if result != errno.ECONNREFUSED:
        raise StatusUnavailableError(f"another agent listens at {path}")
    os.unlink(path)
