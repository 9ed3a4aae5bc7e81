"""One source, compiled as the agent compiles its own.

In:   the source, its flags, and what `prepare_all` and `Preparing` take
Out:  its Artifact; raises what went wrong
Owns: nothing
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from otel_ebpf.errors import AgentError
from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.cached_compiler import prepare_all
from otel_ebpf.probe.compiler import Job, compile_sources
from otel_ebpf.probe.kernel_types import KernelTypes
from otel_ebpf.probe.prepare import Preparing
from otel_ebpf.probe.programs import Source


def prepare(source: Source, flags: Mapping[str, int | str], **how: Any) -> Artifact:
    ((_, result),) = prepare_all([source], flags, **how)
    return _raised(result)


def compile_source(text: str, cflags: Sequence[str], types: KernelTypes, **how: Any) -> Artifact:
    """Without the cache."""
    ((_, result),) = compile_sources({0: Job(text, cflags)}, types, **how)
    return _raised(result)


def _raised(result: Artifact | AgentError) -> Artifact:
    if isinstance(result, AgentError):
        raise result
    return result


def prepare_in_child(source: Source, flags: Mapping[str, int | str], **how: Any) -> Artifact:
    with closing(Preparing([source], flags, **how)) as preparing:
        return preparing.artifact(0)
