"""Bytes of the ring buffer -> records.

In:   one sample as the kernel wrote it, in a buffer, by offset and length
Out:  Record, Lookup or ProcessEvent
"""

from mmap import mmap

from otel_ebpf.records.kinds import Lookup, LookupKind, ProcessEvent, ProcessEventKind, Record
from otel_ebpf.records.layouts import LOOKUP, PROCESS_EVENT, RECORD

Buffer = bytes | mmap  # whose slices are bytes

_RECORD_BYTES = RECORD.size
_unpack = RECORD.unpack_from
_new = tuple.__new__
_LAST_EVENT = max(ProcessEventKind)


class DecodeError(ValueError):
    """A sample that no kernel program of this version writes; names kind, length and offset."""


def decode_record(data: Buffer, offset: int, length: int) -> Record:
    """Raises DecodeError when the sample is shorter than it says, or of no known kind."""
    if length < _RECORD_BYTES:
        raise DecodeError(f"a record of {length} bytes at {offset}: at least {_RECORD_BYTES} are needed")
    fields = _unpack(data, offset)
    if not 1 <= fields[0] <= 4 or _RECORD_BYTES + fields[6] > length:
        raise DecodeError(f"a record of kind {fields[0]} at {offset}: {fields[6]} captured bytes in {length}")
    start = offset + _RECORD_BYTES
    return _new(Record, (*fields, data[start : start + fields[6]]))


def is_lookup(data: Buffer, offset: int, length: int) -> bool:
    return length == LOOKUP.size and data[offset] == LookupKind.LOOKUP


def decode_lookup(data: Buffer, offset: int, length: int) -> Lookup:
    """Raises DecodeError when it counts more answers than there is room for, or ends before it began."""
    if length != LOOKUP.size:
        raise DecodeError(f"a lookup of {length} bytes at {offset}: {LOOKUP.size} are needed")
    (
        kind, is_same_thread, is_only_name, count, pid, tid, _, connection, former, start_ns, end_ns,
        families, addresses, name,
    ) = LOOKUP.unpack_from(data, offset)  # fmt: skip
    if kind != LookupKind.LOOKUP or count > len(families) or end_ns < start_ns:
        raise DecodeError(f"a lookup of kind {kind} at {offset}: {count} answers, from {start_ns} to {end_ns}")
    answers = tuple((families[index], addresses[16 * index : 16 * index + 16]) for index in range(count))
    name = name.partition(b"\0")[0]
    return Lookup(
        bool(is_same_thread), bool(is_only_name), pid, tid, connection, former, start_ns, end_ns, answers, name
    )


def decode_process_event(data: Buffer, offset: int, length: int) -> ProcessEvent:
    """Raises DecodeError when the sample is not one process event."""
    if length < PROCESS_EVENT.size:
        raise DecodeError(f"a process event of {length} bytes at {offset}: {PROCESS_EVENT.size} are needed")
    fields = ProcessEvent._make(PROCESS_EVENT.unpack_from(data, offset))
    if not 1 <= fields.kind <= _LAST_EVENT:
        raise DecodeError(f"a process event of kind {fields.kind} at {offset}")
    return fields._replace(command=fields.command.rstrip(b"\0"))
