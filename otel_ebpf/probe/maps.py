"""A BPF map of this process, read and written from user space.

In:   a descriptor and the map's sizes
Out:  values as bytes
Owns: the descriptor, until `close`
"""

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from otel_ebpf.probe import bpf

# Keys that several maps have, and a value that several places write.
PID = struct.Struct("<I")
TARGET = struct.Struct("<II")  # struct target: service_pid, flags
FILE = struct.Struct("<QI4x")  # struct executable: inode, device
_PER_CPU_KINDS = frozenset(
    {
        bpf.BPF_MAP_TYPE_PERCPU_HASH,
        bpf.BPF_MAP_TYPE_PERCPU_ARRAY,
        bpf.BPF_MAP_TYPE_LRU_PERCPU_HASH,
        bpf.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
    }
)
_BATCH_ENTRIES = 256


@dataclass(slots=True)
class Map:
    fd: int
    name: str
    kind: int  # BPF_MAP_TYPE_*
    key_bytes: int
    value_bytes: int
    max_entries: int
    cpu_count: int = 1  # more than 1 for per-CPU maps only

    @property
    def is_per_cpu(self) -> bool:
        return self.kind in _PER_CPU_KINDS

    @property
    def _room_bytes(self) -> int:
        """What the kernel writes for one key."""
        return self._stride_bytes * self.cpu_count if self.is_per_cpu else self.value_bytes

    @property
    def _stride_bytes(self) -> int:
        """From one CPU's value to the next one's: rounded up to 8."""
        return (self.value_bytes + 7) & ~7

    def lookup(self, key: bytes) -> bytes | None:
        """The value; of a per-CPU map all CPUs' values, each rounded up to 8 bytes: rather use lookup_per_cpu."""
        return bpf.lookup(self.fd, self._checked_key(key), self._room_bytes)

    def lookup_per_cpu(self, key: bytes) -> list[bytes] | None:
        """One value for each possible CPU."""
        if not self.is_per_cpu:
            raise ValueError(f"the map {self.name} has one value for all CPUs")
        values = self.lookup(key)
        return None if values is None else self._by_cpu(values)

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        if len(value) != self._room_bytes:
            raise ValueError(f"a value of {self.name} has {self._room_bytes} bytes, not {len(value)}")
        bpf.update(self.fd, self._checked_key(key), value, flags)

    def delete(self, key: bytes) -> bool:
        """False when there was nothing under this key."""
        return bpf.delete(self.fd, self._checked_key(key))

    def take(self, key: bytes) -> bytes | None:
        """Deletes the entry and returns its last value."""
        return bpf.take(self.fd, self._checked_key(key), self._room_bytes)

    def keys(self) -> Iterator[bytes]:
        """In no order. Keys that others add or remove meanwhile may be missing, or come twice."""
        key = bpf.next_key(self.fd, None, self.key_bytes)
        for _ in range(self.max_entries):  # a hash restarts when its current key is deleted under us
            if key is None:
                return
            yield key
            key = bpf.next_key(self.fd, key, self.key_bytes)

    def items(self) -> list[tuple[bytes, bytes]]:
        """All entries, a batch with each system call: 64 ns an entry where single lookups take 2 us."""
        entries: list[tuple[bytes, bytes]] = []
        position, count = None, min(_BATCH_ENTRIES, self.max_entries)
        while True:
            try:
                batch, position = bpf.lookup_batch(self.fd, position, count, self.key_bytes, self._room_bytes)
            except OSError as error:
                if error.errno != errno.ENOSPC or count >= 2 * self.max_entries:
                    raise
                count *= 2  # one bucket of the hash holds more
                continue
            entries += batch
            if position is None:
                return entries

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _by_cpu(self, values: bytes) -> list[bytes]:
        return [values[at : at + self.value_bytes] for at in range(0, len(values), self._stride_bytes)]

    def _checked_key(self, key: bytes) -> bytes:
        if len(key) != self.key_bytes:
            raise ValueError(f"a key of {self.name} has {self.key_bytes} bytes, not {len(key)}")
        return key
