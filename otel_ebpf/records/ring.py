"""Reads a BPF ring buffer through memory that is shared with the kernel: no system call a record.

In:   the map's file descriptor and size
Out:  each committed sample, as (buffer, offset, length), oldest first
Owns: the consumer position

Layout: kernel/bpf/ringbuf.c. One page with the consumer position, one with the producer position, then the data.
The kernel offers the data twice in a row so that no sample wraps; it is mapped once here, which halves the memory that
the process is charged for, and the rare sample that wraps is copied. A sample has a header of 8 bytes, its length with
two flags in the first 4.
Loads and stores are ordered enough on x86-64; arm64 would need barriers that Python does not have.
"""

import mmap
from collections.abc import Callable

from otel_ebpf.records.decode import Buffer

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_LENGTH = _DISCARDED - 1
_HEADER_BYTES = 8
_GIVE_BACK_MASK = 63


class RingReader:
    """Single consumer of one ring buffer."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        page = mmap.PAGESIZE
        self.size_bytes = size_bytes
        self._consumer_map = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(descriptor, page + size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = memoryview(self._consumer_map)[:8].cast("Q")
        self._producer = memoryview(self._producer_map)[:8].cast("Q")
        self._headers = memoryview(self._producer_map)[page:].cast("I")

    @property
    def produced(self) -> int:
        """Where the kernel has come to; what is committed later than this reading lies behind it."""
        return self._producer[0]

    @property
    def used_bytes(self) -> int:
        return self._producer[0] - self._consumer[0]

    def drain(self, handle: Callable[[Buffer, int, int], None], until: int) -> int:
        """Calls handle(buffer, offset, length) for every sample up to `until`; returns how many there were.

        Space is given back every few samples, at the end, and when `handle` raises: a sample is never seen twice, and
        `handle` copies what it keeps.
        """
        headers, data, size = self._headers, self._producer_map, self.size_bytes
        mask, data_begin = size - 1, mmap.PAGESIZE
        position, seen = self._consumer[0], 0
        try:
            while position < until:
                offset = position & mask
                header = headers[offset >> 2]
                if header & _BUSY:
                    break
                length = header & _LENGTH
                position += (length + _HEADER_BYTES + 7) & ~7
                if not header & _DISCARDED:
                    seen += 1
                    over = offset + _HEADER_BYTES + length - size
                    begin = data_begin + offset + _HEADER_BYTES
                    if over <= 0:
                        handle(data, begin, length)
                    else:
                        handle(data[begin:] + data[data_begin : data_begin + over], 0, length)
                    if not seen & _GIVE_BACK_MASK:
                        self._consumer[0] = position
        finally:
            self._consumer[0] = position
        return seen

    def close(self) -> None:
        for view in (self._consumer, self._producer, self._headers):
            view.release()
        self._consumer_map.close()
        self._producer_map.close()
