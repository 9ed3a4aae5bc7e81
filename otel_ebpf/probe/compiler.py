"""Compiles BPF C by bcc, each text in a child process.

In:   C text, flags for bcc, the running kernel's types
Out:  Artifact; PreflightError when this host lacks something, ProbeError when the source does not compile
Owns: the children and the folder with their headers, until it returns

LLVM takes 100 MB, so it never enters this process: a child hands over bytecode and ends.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, TypeVar

from otel_ebpf.errors import AgentError, PreflightError, ProbeError
from otel_ebpf.probe.artifact import Artifact, ArtifactError, Compiler, decode
from otel_ebpf.probe.compile_child import NO_BCC
from otel_ebpf.probe.interpreters import candidate_interpreters
from otel_ebpf.probe.kernel_types import KernelTypes
from otel_ebpf.probe.shim import header_folder, prologue_for_headers, read_btf, shim_headers

Key = TypeVar("Key")
COMPILE_TIMEOUT_SECONDS = 300.0  # 2.5 s of a present CPU, a minute and more of an emulated one
_IDENTIFY_TIMEOUT_SECONDS = 60.0
_CHILD = Path(__file__).with_name("compile_child.py")
_MAX_ERROR_LINES = 20

_INSTALL_BCC = (
    "Install the distribution's bcc (Debian, Ubuntu: apt install python3-bpfcc; Fedora: dnf install python3-bcc), or "
    "name the interpreter that imports it in OTEL_EBPF_BCC_PYTHON. PyPI's package of the name bcc is another program."
)


class _ChildResult(NamedTuple):
    status: int
    output: bytes
    messages: str


class Job(NamedTuple):
    text: str
    cflags: Sequence[str]
    name: str = ""  # for people, on the child's command line


def compile_sources(
    jobs: Mapping[Key, Job],
    types: KernelTypes,
    *,
    bcc_python: str | None = None,
    timeout_seconds: float = COMPILE_TIMEOUT_SECONDS,
) -> Iterator[tuple[Key, Artifact | AgentError]]:
    """Each when it is compiled; as many at once as there are processors, in this order."""
    with contextlib.ExitStack() as stack:
        prologue, environment = "", {}
        if types.btf is None:
            assert types.headers is not None
            # bcc finds the matching headers under /lib/modules by itself, with their two-folder layout on Debian.
            prologue = prologue_for_headers(types.headers)
        else:
            headers = shim_headers(read_btf(types.btf), types.kernel.release)
            environment["BCC_KERNEL_SOURCE"] = str(stack.enter_context(header_folder(headers)))
        threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        stack.callback(threads.shutdown, cancel_futures=True)
        compiling = {
            threads.submit(
                _compile, job._replace(text=prologue + job.text), environment, bcc_python, timeout_seconds
            ): key
            for key, job in jobs.items()
        }
        for done in as_completed(compiling):
            error = done.exception()
            if error is not None and not isinstance(error, AgentError):
                raise error
            yield compiling[done], error or done.result()


def _compile(job: Job, environment: Mapping[str, str], bcc_python: str | None, timeout_seconds: float) -> Artifact:
    asked = {"text": job.text, "cflags": list(job.cflags)}
    result = _run_child(asked, environment, bcc_python, timeout_seconds, job.name)
    if result.status:
        raise _compile_error(result, timeout_seconds)
    return _decoded(result)


def identify_bcc(bcc_python: str | None = None) -> Compiler:
    """Which interpreter and which bcc would compile; PreflightError when there is none."""
    result = _run_child({}, {}, bcc_python, _IDENTIFY_TIMEOUT_SECONDS)
    if result.status:
        raise _compile_error(result, _IDENTIFY_TIMEOUT_SECONDS)
    return _decoded(result).compiler


def _decoded(result: _ChildResult) -> Artifact:
    try:
        return decode(result.output)
    except ArtifactError as error:
        raise ProbeError(f"the compiler's answer makes no sense: {error}", _DEFECT) from error


_DEFECT = "This is a defect of otel-ebpf; please report it with the versions of the kernel and of bcc."


def _run_child(
    job: Mapping[str, object],
    environment: Mapping[str, str],
    bcc_python: str | None,
    timeout_seconds: float,
    name: str = "",
) -> _ChildResult:
    """Runs the job under the first interpreter that has bcc."""
    refusals = []
    for python in candidate_interpreters(bcc_python):
        result = _run_under(python, json.dumps(job).encode(), environment, timeout_seconds, name)
        if result.status != NO_BCC:
            return result
        refusals.append(f"{python} ({result.messages.strip()})")
    raise PreflightError(f"no Python interpreter with bcc: {'; '.join(refusals) or 'none found'}", _INSTALL_BCC)


def _run_under(
    python: str, job: bytes, environment: Mapping[str, str], timeout_seconds: float, name: str
) -> _ChildResult:
    # Isolated (-I): neither the user's PYTHONPATH nor the current folder may change what runs as root.
    command = [python, "-IB", str(_CHILD), *([name] if name else [])]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **environment}
    try:
        done = subprocess.run(
            command, input=job, capture_output=True, env=environment, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        messages = (error.stderr or b"").decode(errors="replace")
        raise ProbeError(
            f"the compiler did not finish within {timeout_seconds:g} s and was ended",
            f"Is this host short of memory or CPU? It needs about 130 MB. {messages[-500:]}".rstrip(),
        ) from error
    except OSError as error:
        return _ChildResult(NO_BCC, b"", error.strerror or str(error))
    return _ChildResult(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def _compile_error(result: _ChildResult, timeout_seconds: float) -> ProbeError:
    if result.status < 0:
        name = signal.Signals(-result.status).name
        return ProbeError(
            f"the compiler was killed by {name}",
            "If you did not do it: compiling needs about 130 MB; `dmesg` tells whether memory ran out.",
        )
    lines = result.messages.splitlines()
    first = next((at for at, line in enumerate(lines) if "error:" in line), max(0, len(lines) - _MAX_ERROR_LINES))
    shown = "\n".join(lines[first : first + _MAX_ERROR_LINES]) or f"exit status {result.status}, no message"
    return ProbeError(f"cannot compile the probes: {shown}", _DEFECT)
