"""A ring of the kernel's form, in memory of the test; tests/kernel/test_ring.py has the kernel's own."""

import mmap
import os

from otel_ebpf.records.ring import RingReader

SIZE = mmap.PAGESIZE


class Ring:
    def __init__(self) -> None:
        self.file = os.memfd_create("ring")
        os.ftruncate(self.file, 2 * mmap.PAGESIZE + SIZE)
        self.reader = RingReader(self.file, SIZE)
        self.at = 0

    def put(self, sample: bytes) -> None:
        framed = len(sample).to_bytes(8, "little") + sample
        for byte in framed + bytes(-len(framed) % 8):
            os.pwrite(self.file, bytes((byte,)), 2 * mmap.PAGESIZE + self.at % SIZE)
            self.at += 1
        os.pwrite(self.file, self.at.to_bytes(8, "little"), mmap.PAGESIZE)


def test_samples_come_whole_also_across_the_end():
    ring, seen = Ring(), []
    sent = [b"%d" % number * (number % 90) for number in range(200)]
    for sample in sent:
        ring.put(sample)
        ring.reader.drain(lambda data, offset, length: seen.append(data[offset : offset + length]), ring.at)

    assert sent == seen
    assert 0 == ring.reader.used_bytes


def test_space_is_given_back_before_all_has_been_read():
    """What a full ring makes of a pass may take long, and the kernel needs the space meanwhile."""
    ring, used = Ring(), []
    for _ in range(200):
        ring.put(b"12345678")
    ring.reader.drain(lambda *_: used.append(ring.reader.used_bytes), ring.at)

    assert 200 * 16 == used[0]
    assert used[-1] < 200 * 16 / 2
