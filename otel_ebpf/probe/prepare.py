"""The agent's own BPF programs, ready to be loaded.

In:   flags for the C source, the cache folder
Out:  an Artifact for each part, each as soon as it is there; PreflightError or ProbeError as the compiler raised it
Owns: a forked child that does the work, until all is there

Hashing, the cache, reading BTF and starting the compiler need 10 MB of modules and buffers once. A child does them, so
that they do not stay in the probe for as long as it lives. Start this before any thread.
"""

import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from otel_ebpf.errors import AgentError, PreflightError, ProbeError
from otel_ebpf.probe import privileges
from otel_ebpf.probe.artifact import Artifact, decode, encode
from otel_ebpf.probe.programs import Part, SocketBackend, Source, read_source, rows_of

_DONE, _FAILED = 1, 0
_ANSWER = struct.Struct("<BBI")  # which source; is it an artifact or an error; its bytes
_READ_BYTES = 1 << 20
_ERRORS: dict[str, type[AgentError]] = {"PreflightError": PreflightError, "ProbeError": ProbeError}


class Preparing:
    """Sources that become artifacts, each from the cache or compiled for this kernel, in a child of this process."""

    def __init__(
        self,
        sources: Iterable[Source],
        flags: Mapping[str, int | str],
        *,
        cache_dir: Path | None,
        bcc_python: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """`cache_dir` None keeps nothing; `progress` runs in the child."""
        sources = list(sources)
        self._count = len(sources)
        self._received = b""
        self._results: dict[int, Artifact | AgentError] = {}
        self._answer, write_end = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._answer)
            _work(write_end, sources, flags, cache_dir, bcc_python, progress)
        os.close(write_end)

    def artifact(self, index: int) -> Artifact:
        """Of that source; waits for it."""
        while index not in self._results:
            if self._answer < 0:
                raise ProbeError(f"preparing the probes ended by {self._end}", "The messages above say more.")
            self.receive()
        result = self._results[index]
        if isinstance(result, AgentError):
            raise result
        return result

    def fileno(self) -> int:
        """Readable when there is more of the answer; -1 when all of it is there."""
        return self._answer

    def receive(self) -> None:
        """Waits for the next piece of the answer; nothing when there is none to come."""
        if self._answer < 0:
            return
        piece = os.read(self._answer, _READ_BYTES)
        self._received += piece
        while len(self._received) >= _ANSWER.size:
            index, verdict, length = _ANSWER.unpack_from(self._received)
            end = _ANSWER.size + length
            if len(self._received) < end:
                break
            payload, self._received = self._received[_ANSWER.size : end], self._received[end:]
            self._results[index] = decode(payload) if verdict == _DONE else _error(payload)
        if not piece or len(self._results) == self._count:
            self._reap()

    def close(self) -> None:
        """What is not ready by now nobody waits for."""
        if self._answer >= 0:
            os.kill(self._child, signal.SIGTERM)
            self._reap()

    def _reap(self) -> None:
        os.close(self._answer)
        self._answer = -1
        _, status = os.waitpid(self._child, 0)
        ended_by = os.WIFSIGNALED(status)
        self._end = f"signal {os.WTERMSIG(status)}" if ended_by else f"exit status {os.WEXITSTATUS(status)}"


class PreparedParts:
    """The agent's own programs, part by part."""

    def __init__(
        self,
        backend: SocketBackend,
        flags: Mapping[str, int | str],
        *,
        cache_dir: Path | None,
        bcc_python: str | None = None,
        parts: Iterable[Part] = Part,
    ) -> None:
        self._backend = backend
        self._parts = tuple(parts)
        sources = [read_source(backend, part) for part in self._parts]
        self._preparing = Preparing(sources, flags, cache_dir=cache_dir, bcc_python=bcc_python)
        self.fileno = self._preparing.fileno
        self.receive = self._preparing.receive
        self.close = self._preparing.close

    def artifact(self, part: Part) -> Artifact:
        """Waits for it."""
        artifact = self._preparing.artifact(self._parts.index(part))
        found, expected = (
            {program.name for program in artifact.programs},
            {row.function for row in rows_of(self._backend, part)},
        )
        if found != expected:
            names = ", ".join(sorted(found ^ expected))
            raise ProbeError(f"bpf/ and probe/programs.py do not have the same programs: {names}", "This is a defect.")
        return artifact


def _error(payload: bytes) -> AgentError:
    kind, what, remedy = json.loads(payload)
    return _ERRORS[kind](what, remedy)


def _work(
    write_end: int,
    sources: list[Source],
    flags: Mapping[str, int | str],
    cache_dir: Path | None,
    bcc_python: str | None,
    progress: Callable[[str], None] | None,
) -> None:
    """The child's whole life; never returns into the caller's code."""
    status = 1
    try:
        _end_as_asked()
        from otel_ebpf.probe.cached_compiler import prepare_all  # here, so that the parent never has it

        with os.fdopen(write_end, "wb") as pipe:
            prepared = prepare_all(sources, flags, cache_dir=cache_dir, bcc_python=bcc_python, progress=progress)
            for index, result in prepared:
                if isinstance(result, Artifact):
                    verdict, payload = _DONE, encode(result)
                else:
                    kind = "PreflightError" if isinstance(result, PreflightError) else "ProbeError"
                    verdict, payload = _FAILED, json.dumps([kind, result.what, result.remedy]).encode()
                pipe.write(_ANSWER.pack(index, verdict, len(payload)) + payload)
                pipe.flush()
        status = 0
    except (BrokenPipeError, SystemExit):
        pass  # nobody waits any more
    except BaseException:  # noqa: BLE001 - whatever it is, it must not unwind into the parent's code twice
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _end_as_asked() -> None:
    """By the parent or by its end, and not by the terminal. What is worked in is removed on the way out."""
    signal.set_wakeup_fd(-1)
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_compilers)
    privileges.end_with_parent(signal.SIGTERM)


def _end_compilers(*_: object) -> None:
    """They are the others of this process's group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    sys.exit(1)
