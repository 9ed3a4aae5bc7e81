"""The system calls bpf() and perf_event_open(), through libc: no bcc, no libbpf.

In:   numbers, names, bytes
Out:  descriptors and bytes; OSError as the kernel gave it
Owns: nothing; every descriptor belongs to the caller and is closed on exec

Layouts are those of union bpf_attr and struct perf_event_attr in include/uapi/linux. Constants have the kernel's names.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from otel_ebpf.errors import PreflightError

BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY = 1, 2
BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY = 5, 6
BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE = 10, 21
BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_RINGBUF = 12, 27
BPF_F_NO_PREALLOC, BPF_F_MMAPABLE = 1 << 0, 1 << 10
BPF_NOEXIST, BPF_EXIST = 1, 2

_BPF_MAP_CREATE, _BPF_MAP_LOOKUP, _BPF_MAP_UPDATE, _BPF_MAP_DELETE, _BPF_MAP_NEXT_KEY, _BPF_PROG_LOAD = range(6)
BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_RAW_TRACEPOINT = 2, 17  # uprobes are of the first kind

_BPF_OBJ_INFO, _BPF_RAW_TRACEPOINT_OPEN, _BPF_MAP_TAKE, _BPF_MAP_LOOKUP_BATCH = 15, 17, 21, 24
_BPF_LINK_CREATE, _BPF_PERF_EVENT, _BPF_F_UPROBE_MULTI_RETURN = 28, 41, 1

_LOAD_ATTEMPTS = 10
_ENOTSUPP = 524  # the kernel's own; has no name in errno
_PERF_EVENT_IOC_ENABLE, _PERF_EVENT_IOC_SET_BPF = 0x2400, 0x40042408
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_ATTR_BYTES = 128

_CALL_NUMBERS = {"x86_64": (321, 298), "aarch64": (280, 241)}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long,) * 6  # all six: a variadic call passes what it is given, as int or long


class ProgramInfo(NamedTuple):
    id: int
    kind: int
    jited_bytes: int
    translated_bytes: int
    verified_instructions: int | None  # None before 5.16


def _call_number(index: int) -> int:
    machine = os.uname().machine
    if machine not in _CALL_NUMBERS:
        raise PreflightError(f"the architecture {machine} is not supported", "Supported are x86_64 and aarch64.")
    return _CALL_NUMBERS[machine][index]


def _call(number: int, *arguments: int) -> int:
    result: int = _libc.syscall(number, *arguments, *(0,) * (5 - len(arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """The result, and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attributes, max(128, len(attributes)))
    return _call(_call_number(0), command, ctypes.addressof(buffer), len(buffer)), buffer.raw


def create_map(
    kind: int, key_bytes: int, value_bytes: int, max_entries: int, flags: int = 0, name: str = "", like_fd: int = 0
) -> int:
    """`like_fd`: of a map of maps, one of the form that those in it have; how many entries one has is its own affair."""
    numbers = struct.pack("=IIIIIII", kind, key_bytes, value_bytes, max_entries, flags, like_fd, 0)
    return _bpf(_BPF_MAP_CREATE, numbers + _object_name(name))[0]


def lookup(map_fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Value under this key; None when there is none. For per-CPU maps the caller passes the room for all CPUs."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _map_call(_BPF_MAP_LOOKUP, map_fd, key, value)
    except FileNotFoundError:
        return None
    return value.raw


def update(map_fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    _map_call(_BPF_MAP_UPDATE, map_fd, key, ctypes.create_string_buffer(value, len(value)), flags)


def delete(map_fd: int, key: bytes) -> bool:
    """False when there was nothing under this key."""
    try:
        _map_call(_BPF_MAP_DELETE, map_fd, key, None)
    except FileNotFoundError:
        return False
    return True


def take(map_fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Deletes an entry of a hash and returns its last value; None when there is none. Before 5.14 in two steps."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _map_call(_BPF_MAP_TAKE, map_fd, key, value)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.EINVAL, _ENOTSUPP):
            raise
        last = lookup(map_fd, key, value_bytes)
        delete(map_fd, key)
        return last
    return value.raw


def next_key(map_fd: int, key: bytes | None, key_bytes: int) -> bytes | None:
    """The key after this one, the first for None; None at the end."""
    following = ctypes.create_string_buffer(key_bytes)
    try:
        _map_call(_BPF_MAP_NEXT_KEY, map_fd, key, following)
    except FileNotFoundError:
        return None
    return following.raw


def lookup_batch(
    map_fd: int, position: bytes | None, count: int, key_bytes: int, value_bytes: int
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Up to `count` entries and the position to go on from, None at the end. OSError ENOSPC: ask for more at once."""
    keys = ctypes.create_string_buffer(count * key_bytes)
    values = ctypes.create_string_buffer(count * value_bytes)
    before = ctypes.create_string_buffer(position, len(position)) if position is not None else None
    after = ctypes.create_string_buffer(max(8, key_bytes))
    attributes = struct.pack(
        "=QQQQIIQQ", _address(before), _address(after), _address(keys), _address(values), count, map_fd, 0, 0
    )
    buffer = ctypes.create_string_buffer(attributes, 128)
    is_last = False
    try:
        _call(_call_number(0), _BPF_MAP_LOOKUP_BATCH, ctypes.addressof(buffer), len(buffer))
    except FileNotFoundError:
        is_last = True
    (found,) = struct.unpack_from("=I", buffer.raw, 32)
    entries = [
        (keys.raw[at * key_bytes : (at + 1) * key_bytes], values.raw[at * value_bytes : (at + 1) * value_bytes])
        for at in range(found)
    ]
    return entries, None if is_last else after.raw


def load_program(
    kind: int, instructions: bytes, name: str = "", *, expected_attach_type: int = 0, log_bytes: int = 0
) -> tuple[int, str]:
    """Descriptor of the verified program, and the verifier's log if room for it was given; else VerifierError."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(log_bytes) if log_bytes else None
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        kind,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        1 if log else 0,
        log_bytes,
        _address(log),
        0,
        0,
        _object_name(name),
        0,
        expected_attach_type,
    )
    try:
        return _load(attributes), log.value.decode(errors="replace") if log else ""
    except OSError as error:
        raise VerifierError(error.errno or 0, log.value.decode(errors="replace") if log else "") from error


def _load(attributes: bytes) -> int:
    """The verifier breaks off when a signal comes (EAGAIN), also when a container was frozen and goes on; then it is asked again."""
    for _ in range(_LOAD_ATTEMPTS - 1):
        try:
            return _bpf(_BPF_PROG_LOAD, attributes)[0]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    return _bpf(_BPF_PROG_LOAD, attributes)[0]


class VerifierError(OSError):
    """The kernel refused a program; `log` is what its verifier said, if it was asked to."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(code, os.strerror(code))
        self.log = log


def open_raw_tracepoint(name: str, program_fd: int) -> int:
    """Attaches the program; closing the descriptor detaches it."""
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(_BPF_RAW_TRACEPOINT_OPEN, struct.pack("=QII", ctypes.addressof(text), program_fd, 0))[0]


def link_uprobes(
    program_fd: int, kind: int, path: str, places: Sequence[tuple[int, int]], *, at_return: bool = False
) -> int:
    """Attaches to instructions of one file, each an offset and a cookie; `kind` is the program's attach type."""
    name = ctypes.create_string_buffer(path.encode())
    offsets = (ctypes.c_uint64 * len(places))(*(offset for offset, _ in places))
    cookies = (ctypes.c_uint64 * len(places))(*(cookie for _, cookie in places))
    flags = _BPF_F_UPROBE_MULTI_RETURN if at_return else 0
    attributes = struct.pack(
        "=IIIIQQQQIII",
        program_fd,
        0,
        kind,
        0,
        ctypes.addressof(name),
        ctypes.addressof(offsets),
        0,
        ctypes.addressof(cookies),
        len(places),
        flags,
        0,
    )
    return _bpf(_BPF_LINK_CREATE, attributes)[0]


def link_perf_uprobe(program_fd: int, kind: int, config: int, path: str, offset: int, cookie: int) -> list[int]:
    """The same for one instruction; returns the link and its event, both to be closed. `kind` of the uprobe PMU."""
    name = ctypes.create_string_buffer(path.encode())
    event = perf_event_open(kind, config, config1=ctypes.addressof(name), config2=offset, cpu=0)
    try:
        link = _bpf(_BPF_LINK_CREATE, struct.pack("=IIIIQ", program_fd, event, _BPF_PERF_EVENT, 0, cookie))[0]
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except BaseException:
        os.close(event)
        raise
    return [link, event]


def program_info(program_fd: int) -> ProgramInfo:
    info = ctypes.create_string_buffer(232)  # up to and with verified_insns
    _, attributes = _bpf(_BPF_OBJ_INFO, struct.pack("=IIQ", program_fd, len(info), ctypes.addressof(info)))
    (filled,) = struct.unpack_from("=I", attributes, 4)
    kind, program_id = struct.unpack_from("=II", info.raw, 0)
    jited, translated = struct.unpack_from("=II", info.raw, 16)
    verified = struct.unpack_from("=I", info.raw, 216)[0] if filled >= 220 else None
    return ProgramInfo(program_id, kind, jited, translated, verified)


def perf_event_open(kind: int, config: int, *, config1: int = 0, config2: int = 0, pid: int = -1, cpu: int = -1) -> int:
    """An event of one of the kernel's performance monitoring units; its sampling is left off."""
    attributes = struct.pack("=IIQQQQQIIQQ", kind, _PERF_EVENT_ATTR_BYTES, config, 1, 0, 0, 0, 1, 0, config1, config2)
    buffer = ctypes.create_string_buffer(attributes, _PERF_EVENT_ATTR_BYTES)
    return _call(_call_number(1), ctypes.addressof(buffer), pid, cpu, -1, _PERF_FLAG_FD_CLOEXEC)


def attach_to_perf_event(event_fd: int, program_fd: int) -> None:
    """The program runs at each hit of the event until the event is closed."""
    fcntl.ioctl(event_fd, _PERF_EVENT_IOC_SET_BPF, program_fd)
    fcntl.ioctl(event_fd, _PERF_EVENT_IOC_ENABLE, 0)


def possible_cpu_count() -> int:
    """Per-CPU maps have one value for each CPU that could ever be plugged in."""
    with open("/sys/devices/system/cpu/possible") as file:
        last = file.read().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


def _map_call(
    command: int, map_fd: int, key: bytes | None, value: "ctypes.Array[ctypes.c_char] | None", flags: int = 0
) -> None:
    key_buffer = ctypes.create_string_buffer(key, len(key)) if key is not None else None
    _bpf(command, struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), _address(value), flags))


def _address(buffer: "ctypes.Array[ctypes.c_char] | None") -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def _object_name(name: str) -> bytes:
    return name.encode()[:15].ljust(16, b"\0")


def is_missing_right(error: OSError) -> bool:
    return error.errno in (errno.EPERM, errno.EACCES)
