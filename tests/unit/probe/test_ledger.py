"""Readings of the kernel's ledger: only what has changed is told, and nothing is told twice or forgotten."""

import struct

from otel_ebpf.exchanges.ledger import Ledger
from otel_ebpf.probe.ledger import COUNTS, LedgerWatch
from otel_ebpf.records.frames import MAX_FRAME_BYTES, Frame, LedgerClosed, encode_frame
from otel_ebpf.records.kinds import Counter, LedgerReading

SECOND_NS = 1_000_000_000


class FakeMap:
    """A hash, as the kernel keeps it."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        self.entries[key] = value

    def items(self) -> list[tuple[bytes, bytes]]:
        return list(self.entries.items())

    def take(self, key: bytes) -> bytes | None:
        return self.entries.pop(key, None)

    def count(self, service_pid: int, counter: Counter = Counter.BEGAN, times: int = 1) -> None:
        key = struct.pack("<I", service_pid)
        counts = list(COUNTS.unpack(self.entries.get(key, bytes(COUNTS.size))))
        counts[counter] += times
        self.entries[key] = COUNTS.pack(*counts)

    @property
    def services(self) -> set[int]:
        return {struct.unpack("<I", key)[0] for key in self.entries}


def rows_of(frames: list[Frame]) -> list[tuple[int, ...]]:
    """service_pid, processes, requests began."""
    readings = [frame for frame in frames if isinstance(frame, LedgerReading)]
    return sorted(row[: 3 + Counter.BEGAN] for reading in readings for row in reading.rows)


def test_the_shared_entry_is_there_before_anything_is_counted() -> None:
    ledger = FakeMap()
    LedgerWatch(ledger)

    assert {0} == ledger.services


def test_only_what_has_changed_is_told() -> None:
    ledger = FakeMap()
    watch = LedgerWatch(ledger)
    ledger.count(7, times=3)
    ledger.count(8)

    assert [(7, 1, 3), (8, 2, 1), (9, 1, 0)] == rows_of(watch.read({7: 1, 8: 2, 9: 1}, 0))
    assert [] == watch.read({7: 1, 8: 2, 9: 1}, 0)
    ledger.count(8)
    assert [(7, 5, 3), (8, 2, 2)] == rows_of(watch.read({7: 5, 8: 2, 9: 1}, 0))


def test_many_services_go_into_several_frames_that_each_fit() -> None:
    ledger = FakeMap()
    watch = LedgerWatch(ledger)
    for pid in range(1, 2048):
        ledger.entries[struct.pack("<I", 4_000_000_000 + pid)] = COUNTS.pack(*[2**64 - 1] * len(Counter))
    frames = watch.read({}, 0)

    assert 2047 == len(rows_of(frames))
    assert all(len(encode_frame(frame)) <= MAX_FRAME_BYTES for frame in frames)


def test_an_entry_is_given_back_soon_and_its_counts_are_kept_for_a_while() -> None:
    ledger = FakeMap()
    watch = LedgerWatch(ledger)
    ledger.count(7, times=3)
    watch.read({7: 1}, 0)

    assert [(7, 0, 3)] == rows_of(watch.read({}, 1 * SECOND_NS))
    assert {0, 7} == ledger.services
    assert [] == watch.read({}, 4 * SECOND_NS)
    assert {0} == ledger.services
    ledger.count(7)  # late, in softirq
    assert [(7, 0, 4)] == rows_of(watch.read({}, 5 * SECOND_NS))
    assert [LedgerClosed(7)] == watch.read({}, 40 * SECOND_NS)
    assert [] == watch.read({}, 41 * SECOND_NS)


def test_a_service_whose_processes_return_goes_on_counting() -> None:
    """A restart within the time: the same number, and nothing is lost or counted twice."""
    ledger = FakeMap()
    watch = LedgerWatch(ledger)
    ledger.count(7, times=3)
    watch.read({7: 1}, 0)
    watch.read({}, SECOND_NS)
    watch.read({}, 4 * SECOND_NS)
    ledger.count(7, times=2)

    assert [(7, 1, 5)] == rows_of(watch.read({7: 1}, 5 * SECOND_NS))
    assert [] == watch.read({7: 1}, 100 * SECOND_NS)


def test_whatever_comes_and_goes_the_accounts_hold_every_count() -> None:
    """Short-lived services, one after the other, far more than the map has room for."""
    ledger = FakeMap()
    watch = LedgerWatch(ledger)
    accounts = Ledger()

    def tell(frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, LedgerReading):
                for row in frame.rows:
                    accounts.read(row)
            elif isinstance(frame, LedgerClosed):
                accounts.close(frame.service_pid)

    most = 0
    for second in range(500):
        pid = 1 + second % 120  # numbers come back
        ledger.count(pid, times=2)
        tell(watch.read({pid: 1}, second * SECOND_NS))
        most = max(most, len(ledger.entries))
    for second in range(500, 560, 10):
        tell(watch.read({}, second * SECOND_NS))

    assert 1000 == accounts.total().began
    assert most <= 5
    assert {0, -1} >= accounts.accounts.keys()
