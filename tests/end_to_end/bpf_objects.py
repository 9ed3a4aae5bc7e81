"""Which BPF programs the kernel holds, so that a test can see that none is left behind.

In:   nothing
Out:  program ids with their names; the processes that hold their file descriptors
Owns: nothing

Asks the kernel by bpf(2): bpftool is not on every machine.
"""

import ctypes
import os
import platform
import struct
from contextlib import suppress

BPF_PROG_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 11, 13, 15
SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
INFO_BYTES, NAME_OFFSET, NAME_BYTES = 256, 64, 16

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(SYS_BPF, command, buffer, len(attributes))
    return (result if result >= 0 else -ctypes.get_errno()), buffer.raw


def program_name(program_id: int) -> str | None:
    """None when it went away meanwhile."""
    fd, _ = bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("<III", program_id, 0, 0))
    if fd < 0:
        return None
    try:
        info = ctypes.create_string_buffer(INFO_BYTES)
        result, _ = bpf(BPF_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, INFO_BYTES, ctypes.addressof(info)))
        return info.raw[NAME_OFFSET : NAME_OFFSET + NAME_BYTES].split(b"\0")[0].decode() if result == 0 else None
    finally:
        os.close(fd)


def loaded_programs() -> dict[int, str]:
    found: dict[int, str] = {}
    last = 0
    while True:
        result, answer = bpf(BPF_PROG_GET_NEXT_ID, struct.pack("<III", last, 0, 0))
        if result < 0:
            return found
        last = struct.unpack_from("<I", answer, 4)[0]
        name = program_name(last)
        if name is not None:
            found[last] = name


def programs_held_by(pids: list[int]) -> set[int]:
    """By /proc/PID/fdinfo: the ids of programs, and of those behind links, that these processes keep alive."""
    held = set()
    for pid in pids:
        folder = f"/proc/{pid}/fdinfo"
        with suppress(
            FileNotFoundError, ProcessLookupError
        ):  # it has ended meanwhile, as those do that look into one file
            for fd in os.listdir(folder):
                with suppress(FileNotFoundError), open(f"{folder}/{fd}") as file:
                    held |= {int(line.split()[1]) for line in file if line.startswith("prog_id:")}
    return held
