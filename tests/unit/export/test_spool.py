"""Batches on disk: order, bounds, and what survives."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.export import spool as spool_module
from otel_ebpf.export.otlp import encode_batch, encode_scope
from otel_ebpf.export.spool import DAMAGED, DATABASE, Spool, SpoolError
from tests.unit.export.collectors import span_names
from tests.unit.export.sending import RESOURCE, encoded

MIB = 1 << 20


def request(*names: str) -> bytes:
    return encode_batch([(RESOURCE, [encoded(name) for name in names])], encode_scope("1"))


@contextmanager
def opened(folder: Path, limit_bytes: int = 64 * MIB, said: list[str] | None = None) -> Iterator[Spool]:
    spool = Spool(folder, limit_bytes, (said if said is not None else []).append)
    spool.open()
    try:
        yield spool
    finally:
        spool.close()


def drain(spool: Spool) -> list[bytes]:
    found = []
    while kept := spool.oldest():
        found.append(kept.request)
        spool.settle(kept, 0)
    return found


def test_batches_leave_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """A batch that was on its way while later ones were written is still the oldest."""
    with opened(tmp_path) as spool:
        for number in (2, 3, 1):
            spool.add(number, b"%d" % number, 1)

        assert 3 == spool.spans
        assert [b"1", b"2", b"3"] == drain(spool)
        assert (0, 0, 0) == (spool.spans, spool.size_bytes, spool.dropped)


def test_next_process_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.add(1, b"a", 10)
        spool.add(2, b"b", 20)
        size = spool.size_bytes
    with opened(tmp_path) as spool:
        assert (30, 30, size) == (spool.spans, spool.inherited, spool.size_bytes)
        spool.add(1, b"c", 1)

        assert [b"a", b"b", b"c"] == drain(spool)


def test_batch_stays_until_it_is_settled(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.add(1, b"a", 5)
        kept = spool.oldest()
        spool.settle(kept, 5)

        assert (kept, 5) == (spool.oldest(), spool.spans)


def test_what_is_left_of_a_batch_is_all_that_stays(tmp_path: Path) -> None:
    """The collector has taken the first part of it and then failed."""
    with opened(tmp_path) as spool:
        spool.add(1, request("a", "b", "c"), 3)
        spool.settle(spool.oldest(), 1)
        assert 1 == spool.spans
    with opened(tmp_path) as spool:
        (left,) = drain(spool)

        assert ["c"] == span_names(ExportTraceServiceRequest.FromString(left))
        assert 0 == spool.size_bytes


def test_full_spool_drops_the_oldest_and_counts_their_spans(tmp_path: Path) -> None:
    """The database with its journal stays near the limit, whatever is written."""
    with opened(tmp_path, limit_bytes=8 * MIB) as spool:
        for number in range(1, 101):
            spool.add(number, b"%3d" % number * 100_000, 10)
            assert spool.size_bytes <= 8 * MIB

        left = drain(spool)
        assert [b"%3d" % number for number in range(101 - len(left), 101)] == [row[:3] for row in left]
        assert 1000 == spool.dropped + 10 * len(left)
        assert 20 <= len(left) <= 28
    assert (tmp_path / DATABASE).stat().st_size < 9 * MIB


def test_batch_that_is_being_sent_is_not_dropped(tmp_path: Path) -> None:
    """It may be delivered already: it must not count as both."""
    with opened(tmp_path, limit_bytes=8 * MIB) as spool:
        spool.add(1, b"1" * 3 * MIB, 1)
        kept = spool.oldest()
        for number in (2, 3, 4):
            spool.add(number, b"%d" % number * 3 * MIB, 1)
        spool.settle(kept, 1)

        assert [b"1", b"4"] == [row[:1] for row in drain(spool)]
        assert 2 == spool.dropped


def test_empty_spool_gives_its_space_back(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for number in range(1, 21):
            spool.add(number, bytes(MIB), 1)
        assert (tmp_path / DATABASE).stat().st_size + (tmp_path / f"{DATABASE}-wal").stat().st_size > 20 * MIB
        drain(spool)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < MIB


def test_whoever_opens_it_second_is_told(tmp_path: Path) -> None:
    """Two agents with one folder would send everything twice."""
    with opened(tmp_path):
        second = Spool(tmp_path, MIB, print)

        with pytest.raises(SpoolError, match="another process has it open"):
            second.open()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"no database at all" * 1000), id="something else"),
        pytest.param(lambda path: overwrite(path, 4096, b"\xff" * 4096), id="a page overwritten"),
        pytest.param(lambda path: other_format(path), id="of another version"),
    ],
)
def test_damaged_file_is_set_aside_and_told_once(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with opened(tmp_path) as spool:
        spool.add(1, b"a" * 10_000, 1)
    damage(tmp_path / DATABASE)
    said: list[str] = []
    with opened(tmp_path, said=said) as spool:
        assert spool.oldest() is None
        spool.add(1, b"b", 1)

        assert [b"b"] == drain(spool)
    assert 1 == len(said)
    assert "damaged" in said[0]
    assert (tmp_path / DAMAGED).exists()


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def other_format(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def test_damage_that_shows_later_is_a_counted_loss(tmp_path: Path) -> None:
    """Counting reads no request, so the start does not see a page of one."""
    with opened(tmp_path) as spool:
        spool.add(1, b"a" * 50_000, 7)
        spool.add(2, b"b" * 50_000, 8)
    overwrite(tmp_path / DATABASE, 12 * 4096, b"\xff" * 4096)
    said: list[str] = []
    with opened(tmp_path, said=said) as spool:
        assert 15 == spool.inherited
        drain(spool)

        assert (0, 15, 1) == (spool.spans, spool.dropped, len(said))
        assert "15 spans" in said[0]


def test_what_cannot_be_deleted_does_not_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk too full for the note that something left it; after a restart it is sent twice, never lost."""
    with opened(tmp_path) as spool:
        for number in (1, 2, 3):
            spool.add(number, b"%d" % number, 1)
        with monkeypatch.context() as full:
            full.setattr(spool, "_tidy", disk_full)
            for expected in (b"1", b"2"):
                kept = spool.oldest()
                assert (expected, 1) == (kept.request, kept.span_count)
                spool.settle(kept, 0)
            assert 1 == spool.spans
        assert [b"3"] == drain(spool)
        assert 0 == spool.size_bytes


def disk_full(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_disk_that_hangs_holds_nobody_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "BUSY_SECONDS", 0.05)
    hanging = pytest.raises(SpoolError, match="does not answer")
    with opened(tmp_path) as spool, spool._lock, hanging:  # as if another thread waited for the disk
        spool.add(1, b"a", 1)


def test_batch_in_hand_is_counted_once_when_its_file_turns_out_to_be_damaged(tmp_path: Path) -> None:
    """As lost: whether it was delivered is found out too late."""
    with opened(tmp_path) as spool:
        spool.add(1, b"a" * 50_000, 7)
        kept = spool.oldest()
        assert kept is not None
        spool._set_aside(sqlite3.DatabaseError("malformed"))
        spool.add(2, b"b", 1)

        for unsent_spans in (0, 3):
            with pytest.raises(SpoolError, match="lost"):
                spool.settle(kept._replace(request=request(*"abcdefg")), unsent_spans)
        assert (1, 7, [b"b"]) == (spool.spans, spool.dropped, drain(spool))


def test_numbers_hold_while_one_thread_writes_and_another_drains_a_full_spool(tmp_path: Path) -> None:
    """Each span is there, dropped or settled, and never two of it."""
    with opened(tmp_path, limit_bytes=8 * MIB) as spool:
        batches = 200
        settled: list[int] = []

        def consume() -> None:
            while len(settled) + spool.dropped < batches:
                if kept := spool.oldest():
                    settled.append(kept.number)
                    spool.settle(kept, 0)

        consumer = threading.Thread(target=consume, daemon=True)
        consumer.start()
        for number in range(1, batches + 1):
            spool.add(number, b"x" * MIB, 1)
        consumer.join(120)

        assert (0, 0) == (spool.spans, spool.size_bytes)
        assert batches == len(settled) + spool.dropped
        assert sorted(set(settled)) == settled


WRITER = """
import itertools, sys
from pathlib import Path
from otel_ebpf.export.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30, print)
spool.open()
for number in itertools.count(1):
    spool.add(number, b"%d " % number * 20_000, 1)
    print(number, flush=True)
    if number % 3 == 0:
        spool.settle(spool.oldest(), 0)
        print(-1, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_all_that_was_kept_survives_kill_9(lines: int, tmp_path: Path) -> None:
    """Once `add` has returned; and what was settled does not come again, but for the last."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().splitlines()]
    settled = said.count(-1)
    kept = [number for number in said if number > 0]

    with opened(tmp_path) as spool:
        found = [int(row.split(b" ", 1)[0]) for row in drain(spool)]

    assert found == list(range(found[0], found[-1] + 1))
    assert found[0] in (settled + 1, settled + 2)
    assert found[-1] in (kept[-1], kept[-1] + 1)
