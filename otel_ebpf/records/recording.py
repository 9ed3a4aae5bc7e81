"""The format of a recording: everything that the exporter's work depends on, in the order in which it came.

In:   entries, or a file that holds them
Out:  a file that holds them, or entries
Owns: the format

    header   b"otelebpf", u16 version, u16 bytes of a record, u16 bytes of a progress slot, u32 number of slots
    entry    u8 kind, u32 length, `length` bytes; as many as there are

    START    JSON: the seed of the ids, the host, the version, the settings that shape spans; first, and only there
    FRAME    u64 time, one packet of the probe
    TICK     u64 time: one pass begins, and to it belongs what follows up to the next FRAME, TICK or FINISH
    CLOCK    i64: the wall clock minus the kernel's, when the pass measured it
    SAMPLE   one sample of the ring
    SLOT     u32 index, the bytes of one slot of the progress table, when they are not those of the last time
    OWN      the agent's own endpoints, when they are not those of the last time: u8[16] address, u16 port each
    FINISH   u64 time: the agent was asked to end; slots may follow

Numbers are little-endian, times are CLOCK_MONOTONIC nanoseconds. A file may end at any byte: its writer may have been
killed. What stands before that is good.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import BinaryIO, NamedTuple

from otel_ebpf.records.decode import Buffer, DecodeError
from otel_ebpf.records.frames import MAX_FRAME_BYTES
from otel_ebpf.records.layouts import PROGRESS, PROGRESS_SLOTS, RECORD, REQUEST_CAPTURE_BYTES

MAGIC = b"otelebpf"
VERSION = 1
HEADER = struct.Struct("<8s3HI")
_ENTRY = struct.Struct("<BI")
TIME = struct.Struct("<Q")
OFFSET = struct.Struct("<q")
INDEX = struct.Struct("<I")
ENDPOINT = struct.Struct("<16sH")
_MAX_OWN_ENDPOINTS = 4096
_MAX_SAMPLE_BYTES = RECORD.size + REQUEST_CAPTURE_BYTES + 4096  # room for samples that are not decodable


class EntryKind(IntEnum):
    START = 1
    FRAME = 2
    TICK = 3
    CLOCK = 4
    SAMPLE = 5
    SLOT = 6
    OWN = 7
    FINISH = 8


class OpenRecording(NamedTuple):
    """A file to record to, opened while there was the right to."""

    descriptor: int
    is_redacted: bool


class Entry(NamedTuple):
    kind: EntryKind
    payload: bytes
    offset: int  # of the entry in the file


# The fewest and the most bytes of an entry's payload.
BOUNDS = {
    EntryKind.START: (2, 65_536),
    EntryKind.FRAME: (TIME.size + 2, TIME.size + MAX_FRAME_BYTES),
    EntryKind.TICK: (TIME.size, TIME.size),
    EntryKind.CLOCK: (OFFSET.size, OFFSET.size),
    EntryKind.SAMPLE: (0, _MAX_SAMPLE_BYTES),
    EntryKind.SLOT: (INDEX.size + PROGRESS.size, INDEX.size + PROGRESS.size),
    EntryKind.OWN: (0, ENDPOINT.size * _MAX_OWN_ENDPOINTS),
    EntryKind.FINISH: (TIME.size, TIME.size),
}


class RecordingWriter:
    """Appends to a file that was opened for it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(HEADER.pack(MAGIC, VERSION, RECORD.size, PROGRESS.size, PROGRESS_SLOTS))

    def write(self, kind: EntryKind, payload: Buffer) -> None:
        """Raises ValueError when the payload is outside the bounds of its kind."""
        fewest, most = BOUNDS[kind]
        if not fewest <= len(payload) <= most:
            raise ValueError(f"{kind.name} of {len(payload)} bytes: {fewest} to {most} are allowed")
        self._file.write(_ENTRY.pack(kind, len(payload)))
        self._file.write(payload)

    def flush(self) -> None:
        self._file.flush()


class RecordingReader:
    """The entries of a file; `is_cut` says, once they have been read, that the file ends within one."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises DecodeError when this is no recording of this version's structs."""
        self.is_cut = False
        self.offset = 0  # behind the last whole entry
        self._file = file
        header = file.read(HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise DecodeError("not a recording: it does not begin like one")
        _, version, record_bytes, slot_bytes, slot_count = HEADER.unpack(header)
        found, wanted = (record_bytes, slot_bytes, slot_count), (RECORD.size, PROGRESS.size, PROGRESS_SLOTS)
        if version != VERSION or found != wanted:
            raise DecodeError(
                f"a recording of version {version} with structs {found}: this agent reads version {VERSION} with {wanted}"
            )
        self.offset = HEADER.size

    def entries(self) -> Iterator[Entry]:
        """Raises DecodeError at the first entry that no writer makes."""
        while head := self._file.read(_ENTRY.size):
            if len(head) < _ENTRY.size:
                self.is_cut = True
                return
            number, length = _ENTRY.unpack(head)
            try:
                kind = EntryKind(number)
            except ValueError:
                raise DecodeError(f"an entry of kind {number} at {self.offset}") from None
            fewest, most = BOUNDS[kind]
            if not fewest <= length <= most:
                raise DecodeError(f"{kind.name} of {length} bytes at {self.offset}: {fewest} to {most} are allowed")
            payload = self._file.read(length)
            if len(payload) < length:
                self.is_cut = True
                return
            yield Entry(kind, payload, self.offset)
            self.offset += _ENTRY.size + length


def encode_own(endpoints: frozenset[tuple[bytes, int]]) -> bytes:
    return b"".join(ENDPOINT.pack(*endpoint) for endpoint in sorted(endpoints)[:_MAX_OWN_ENDPOINTS])


def decode_own(entry: Entry) -> frozenset[tuple[bytes, int]]:
    if len(entry.payload) % ENDPOINT.size:
        raise DecodeError(f"OWN of {len(entry.payload)} bytes at {entry.offset}: each endpoint takes {ENDPOINT.size}")
    return frozenset((address, port) for address, port in ENDPOINT.iter_unpack(entry.payload))


def decode_slot(entry: Entry) -> tuple[int, bytes]:
    """The slot's index and its bytes."""
    (index,) = INDEX.unpack_from(entry.payload)
    if index >= PROGRESS_SLOTS:
        raise DecodeError(f"slot {index} at {entry.offset}: there are {PROGRESS_SLOTS}")
    return index, entry.payload[INDEX.size :]
