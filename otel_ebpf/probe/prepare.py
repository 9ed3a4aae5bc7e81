"""The agent's own BPF programs, ready to be loaded.

In:   flags for the C source, the cache folder
Out:  Artifact; PreflightError or ProbeError as the compiler raised it
Owns: a forked child that does the work, until it returns

Hashing, the cache, reading BTF and starting the compiler need 10 MB of modules and buffers once. A child does them, so
that they do not stay in the probe for as long as it lives. Call this before any thread is started.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from otel_ebpf.errors import AgentError, PreflightError, ProbeError
from otel_ebpf.probe.artifact import Artifact, decode, encode
from otel_ebpf.probe.programs import UPROBE_PROGRAMS, SocketBackend, Source, programs_of, read_source

_DONE, _FAILED = b"+", b"-"
_ERRORS: dict[str, type[AgentError]] = {"PreflightError": PreflightError, "ProbeError": ProbeError}


def prepare_programs(
    backend: SocketBackend,
    flags: Mapping[str, int | str],
    *,
    cache_dir: Path | None,
    bcc_python: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """From the cache or compiled for this kernel. `cache_dir` None keeps nothing; `progress` runs in the child."""
    source = read_source(backend)
    artifact = prepare_in_child(source, flags, cache_dir=cache_dir, bcc_python=bcc_python, progress=progress)
    found, expected = (
        {program.name for program in artifact.programs},
        {row.function for row in (*programs_of(backend), *UPROBE_PROGRAMS)},
    )
    if found != expected:
        names = ", ".join(sorted(found ^ expected))
        raise ProbeError(f"bpf/ and probe/programs.py do not have the same programs: {names}", "This is a defect.")
    return artifact


def prepare_in_child(
    source: Source,
    flags: Mapping[str, int | str],
    *,
    cache_dir: Path | None,
    bcc_python: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Any source."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _work(write_end, source, flags, cache_dir, bcc_python, progress)
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as answer:
            verdict, payload = answer.read(1), answer.read()
    finally:
        _, status = os.waitpid(child, 0)
    if verdict == _DONE and not status:
        return decode(payload)
    if verdict == _FAILED and not status:
        kind, what, remedy = json.loads(payload)
        raise _ERRORS[kind](what, remedy)
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    raise ProbeError(f"preparing the probes ended by {how}", "The messages above say more.")


def _work(
    write_end: int,
    source: Source,
    flags: Mapping[str, int | str],
    cache_dir: Path | None,
    bcc_python: str | None,
    progress: Callable[[str], None] | None,
) -> None:
    """The child's whole life; never returns into the caller's code."""
    status = 1
    try:
        from otel_ebpf.probe.cached_compiler import prepare  # here, so that the parent never has it

        try:
            artifact = prepare(source, flags, cache_dir=cache_dir, bcc_python=bcc_python, progress=progress)
            answer = _DONE + encode(artifact)
        except AgentError as error:
            kind = "PreflightError" if isinstance(error, PreflightError) else "ProbeError"
            answer = _FAILED + json.dumps([kind, error.what, error.remedy]).encode()
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(answer)
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, it must not unwind into the parent's code twice
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)
