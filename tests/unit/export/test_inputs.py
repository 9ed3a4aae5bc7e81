"""What the pipeline depends on: a recording that cannot be written is that recording's end, not the agent's; the clocks."""

import io
import struct

import pytest

from otel_ebpf.export import inputs
from otel_ebpf.export.inputs import Handle, LiveInputs, RecordingInputs, no_endpoints
from otel_ebpf.records.frames import Frame, ServiceGone
from otel_ebpf.records.layouts import PROGRESS, PROGRESS_SLOTS
from otel_ebpf.records.progress import PROGRESS_TABLE_BYTES, Progress, ProgressTable
from otel_ebpf.records.recording import EntryKind, RecordingReader, RecordingWriter


class Still:
    """Inputs in which nothing happens but the passing of time, and one sample a pass."""

    produced = 0
    own_endpoints = staticmethod(no_endpoints)

    def __init__(self, table: ProgressTable) -> None:
        self.now_ns = 0
        self.read_progress = table.read

    def accept(self, frame: Frame) -> int:
        return self.now_ns

    def begin_tick(self) -> int:
        self.now_ns += 1
        return self.now_ns

    finish = begin_tick

    def clock_offset_ns(self) -> int:
        return 5

    def drain(self, handle: Handle, until: int) -> int:
        handle(b"--sample--", 2, 6)
        return 1


class FullDisk(io.BytesIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def slot(connection: int, response_bytes: int) -> bytes:
    """struct progress of bpf/records.h, as far as this test looks at it."""
    return struct.pack("<Q8xQ", connection, response_bytes).ljust(PROGRESS.size, b"\0")


def recorded(inputs_of: Still, table: ProgressTable, file: io.BytesIO, said: list[str]) -> RecordingInputs:
    return RecordingInputs(inputs_of, table, RecordingWriter(file), None, said.append)


def kinds_in(file: io.BytesIO) -> list[EntryKind]:
    return [entry.kind for entry in RecordingReader(io.BytesIO(file.getvalue())).entries()]


def test_a_full_disk_ends_the_recording_with_one_word_and_nothing_else() -> None:
    table, said = ProgressTable.over(bytearray(PROGRESS_TABLE_BYTES)), list[str]()
    inputs = recorded(Still(table), table, FullDisk(), said)

    for now_ns in (1, 2, 3):
        assert now_ns == inputs.begin_tick()
        assert 1 == inputs.drain(lambda *_: None, 0)
    inputs.accept(ServiceGone(7))

    assert ["the recording ends here, it cannot be written: [Errno 28] No space left on device"] == said


def test_only_the_sample_is_recorded_not_what_lies_around_it() -> None:
    table, file, seen = ProgressTable.over(bytearray(PROGRESS_TABLE_BYTES)), io.BytesIO(), []
    recorded(Still(table), table, file, []).drain(lambda *sample: seen.append(sample), 0)

    (entry,) = RecordingReader(io.BytesIO(file.getvalue())).entries()
    assert (EntryKind.SAMPLE, b"sample") == (entry.kind, entry.payload)
    assert [(b"--sample--", 2, 6)] == seen


def test_a_slot_is_recorded_when_it_has_changed_and_once_a_pass() -> None:
    """The kernel may write between two readings; a replay has one content of a slot for each pass."""
    memory, file = bytearray(PROGRESS_TABLE_BYTES), io.BytesIO()
    table = ProgressTable.over(memory)
    inputs = recorded(Still(table), table, file, [])

    def bytes_read(in_table: int) -> int:
        memory[7 * PROGRESS.size : 8 * PROGRESS.size] = slot(7 + PROGRESS_SLOTS, in_table)
        progress = inputs.read_progress(7 + PROGRESS_SLOTS, 0)
        assert isinstance(progress, Progress)
        return progress.response_bytes

    inputs.begin_tick()
    assert [10, 10] == [bytes_read(10), bytes_read(11)]
    inputs.begin_tick()
    assert [11, 11] == [bytes_read(11), bytes_read(11)]
    inputs.begin_tick()
    assert 11 == bytes_read(11)

    tick, of_slot = EntryKind.TICK, EntryKind.SLOT
    assert [tick, of_slot, tick, of_slot, tick] == kinds_in(file)


class HeldUp:
    """Both clocks; once, between two readings, the process gets no CPU for two seconds."""

    def __init__(self) -> None:
        self.now_ns, self.readings = 10**9, 0

    def monotonic_ns(self) -> int:
        self.now_ns += 100
        return self.now_ns

    def time_ns(self) -> int:
        self.readings += 1
        self.now_ns += 2 * 10**9 if self.readings == 1 else 100
        return self.now_ns + 7 * 10**18


def test_a_process_that_is_held_up_between_two_clocks_does_not_take_them_to_be_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All spans of a second would be wrong by as long."""
    clocks = HeldUp()
    monkeypatch.setattr(inputs, "time", clocks)

    found = LiveInputs.clock_offset_ns(None)  # type: ignore[arg-type]

    assert 7 * 10**18 == pytest.approx(found, abs=1000)
    assert clocks.readings > 1
