"""Compiles for a guest on this host, where it takes seconds; the guest, emulated, would take a minute.

In:   a Kernel, what its programs are compiled with
Out:  a cache of bytecode for it, which the guest finds at the same path
Owns: that folder

It is the agent's own cache with the agent's own keys: a guest whose kernel differs in any bit from the image's types
finds nothing there, and compiles by itself.
"""

from collections.abc import Mapping
from pathlib import Path

from otel_ebpf.config import Settings
from otel_ebpf.errors import AgentError
from otel_ebpf.probe.cached_compiler import prepare_all
from otel_ebpf.probe.programs import Part, SocketBackend, read_source
from tests.kernel.wire import FLAGS
from tests.vm.image import types_of
from tests.vm.kernels import Kernel

PAGE_BYTES = 4096


def agent_flags() -> dict[str, int | str]:
    """Those of an agent with default settings in a guest of one or two processors; see supervisor.program_flags."""
    settings, _ = Settings.from_environ({})
    return {
        "CPU_BITS": 1,
        "RING_PAGES": settings.ring_bytes // PAGE_BYTES,
        "MAX_CONNECTIONS": settings.max_connections,
    }


def compiled_for(kernel: Kernel, backend: SocketBackend) -> Path:
    folder = kernel.folder / "bytecode"
    types = types_of(kernel)
    sources = [read_source(backend, part) for part in Part]
    flag_sets: list[Mapping[str, int | str]] = [FLAGS, agent_flags()]
    for flags in flag_sets:
        for _, result in prepare_all(sources, flags, cache_dir=folder, types=types):
            if isinstance(result, AgentError):
                raise result
    return folder
