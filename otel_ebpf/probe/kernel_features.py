"""Tries out what the kernel can do, rather than asking for its version.

In:   nothing but the kernel
Out:  what it refuses, as OSError by feature
Owns: nothing: every map and program made here is closed again

The tracepoints are really opened, with a program that returns at once; this lasts some milliseconds each.
"""

import os
from collections.abc import Callable, Iterable
from functools import partial

from otel_ebpf.probe import bpf
from otel_ebpf.probe.loader import allow_locked_memory
from otel_ebpf.probe.programs import BPF_PROG_TYPE_RAW_TRACEPOINT

_LRU_HASH = 9
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_RETURN_ZERO = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit


def try_ring_buffer() -> OSError | None:
    """Since 5.8."""
    return _tried(lambda: bpf.create_map(bpf.BPF_MAP_TYPE_RINGBUF, 0, 0, _PAGE_BYTES))


def try_mapped_array() -> OSError | None:
    """Since 5.5."""
    return _tried(lambda: bpf.create_map(bpf.BPF_MAP_TYPE_ARRAY, 4, 8, 1, bpf.BPF_F_MMAPABLE))


def try_lru_hash() -> OSError | None:
    """Since 4.10."""
    return _tried(lambda: bpf.create_map(_LRU_HASH, 8, 8, 16))


def try_raw_tracepoints(names: Iterable[str]) -> dict[str, OSError]:
    """The ones that cannot be attached to, each with the reason."""
    allow_locked_memory()
    names = list(names)
    try:
        program_fd, _ = bpf.load_program(BPF_PROG_TYPE_RAW_TRACEPOINT, _RETURN_ZERO, "try")
    except OSError as error:
        return dict.fromkeys(names, error)
    try:
        results = {name: _close_at_once(partial(bpf.open_raw_tracepoint, name, program_fd)) for name in names}
    finally:
        os.close(program_fd)
    return {name: refusal for name, refusal in results.items() if refusal}


def _tried(open_one: Callable[[], int]) -> OSError | None:
    allow_locked_memory()
    return _close_at_once(open_one)


def _close_at_once(open_one: Callable[[], int]) -> OSError | None:
    try:
        os.close(open_one())
    except OSError as error:
        return error
    return None
