"""How far an unfinished exchange has come, read from memory that the kernel's programs write.

The ring tells of a response's beginning; the bytes that follow are only counted, here. So a response that ends
on an idle connection is noticed without a record, and without a system call.
"""

import mmap
from typing import NamedTuple

from otel_ebpf.records.kinds import RecordFlag
from otel_ebpf.records.layouts import PROGRESS, PROGRESS_SLOTS, PROGRESS_UNSENT

_UNSENT = int(RecordFlag.UNSENT)
PROGRESS_TABLE_BYTES = PROGRESS.size * PROGRESS_SLOTS


class Progress(NamedTuple):
    """See struct progress in bpf/records.h."""

    position: int
    ended: int
    is_lost: bool
    lost_count: int
    flags: int  # RecordFlag.CHUNKS_*, RecordFlag.UNSENT
    response_bytes: int
    response_last_monotonic_ns: int
    request_bytes: int
    request_last_monotonic_ns: int
    tail: bytes
    chunk_payload_bytes: int


class ProgressTable:
    """The map `progress`, mapped read-only."""

    def __init__(self, descriptor: int) -> None:
        self._map: mmap.mmap | bytearray = mmap.mmap(descriptor, PROGRESS_TABLE_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)

    @classmethod
    def over(cls, memory: bytearray) -> "ProgressTable":
        """A table that somebody else fills, of PROGRESS_TABLE_BYTES."""
        made = cls.__new__(cls)
        made._map = memory
        return made

    def slot_bytes(self, index: int) -> bytes:
        """One slot as it is; of two equal readings all belongs together."""
        place = slice(index * PROGRESS.size, (index + 1) * PROGRESS.size)
        first = bytes(self._map[place])
        while (found := bytes(self._map[place])) != first:
            first = found
        return found

    def read(self, connection: int, position: int) -> Progress | None:
        """The newest exchange of the connection, `position` or a later one; None when another connection has the slot."""
        offset = (connection & (PROGRESS_SLOTS - 1)) * PROGRESS.size
        # The kernel writes times, then bytes, then `ended`: of two equal readings each belongs together.
        first = PROGRESS.unpack_from(self._map, offset)
        while (fields := PROGRESS.unpack_from(self._map, offset)) != first:
            first = fields
        if fields[0] != connection or fields[1] < position:
            return None
        _, newest, ended, lost, lost_count, flags, response_bytes, response_last_ns, *counted = fields
        if response_last_ns & PROGRESS_UNSENT:
            flags, response_last_ns = flags | _UNSENT, response_last_ns & ~PROGRESS_UNSENT
        return Progress(newest, ended, lost != 0, lost_count, flags, response_bytes, response_last_ns, *counted)

    def close(self) -> None:
        if isinstance(self._map, mmap.mmap):
            self._map.close()
