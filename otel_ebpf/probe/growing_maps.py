"""Whether hash maps can take memory as entries come, and give it back.

In:   nothing but the kernel
Out:  the flag to create them with
Owns: nothing: the map and the program made here are closed again

Since commit fba1a1c6c912 ("bpf: Convert hash map to bpf_mem_alloc.", v6.1) entries come from an allocator that works wherever
a program can run. Before, a program that adds one asked the slab allocator, which it may have interrupted itself. The same
series lifted what the verifier had against such maps in programs on perf events, so one of these is tried: nothing runs.
"""

import os

from otel_ebpf.probe import bpf

_BPF_PROG_TYPE_PERF_EVENT = 7
_LOAD_MAP, _RETURN_ZERO = b"\x18\x11\0\0", bytes.fromhex("b7000000000000009500000000000000")


def growing_flag() -> int:
    """BPF_F_NO_PREALLOC, or 0: all entries are to be there from the start."""
    try:
        map_fd = bpf.create_map(bpf.BPF_MAP_TYPE_HASH, 4, 4, 1, bpf.BPF_F_NO_PREALLOC, "try")
    except OSError:
        return 0
    try:
        code = _LOAD_MAP + map_fd.to_bytes(4, "little") + bytes(8) + _RETURN_ZERO
        os.close(bpf.load_program(_BPF_PROG_TYPE_PERF_EVENT, code, "try")[0])
    except OSError:
        return 0
    finally:
        os.close(map_fd)
    return bpf.BPF_F_NO_PREALLOC
