"""The format of recordings: what is written comes back, and nothing else is taken."""

import io
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.layouts import PROGRESS, PROGRESS_SLOTS
from otel_ebpf.records.recording import (
    BOUNDS,
    HEADER,
    INDEX,
    Entry,
    EntryKind,
    RecordingReader,
    RecordingWriter,
    decode_own,
    decode_slot,
    encode_own,
)
from tests.captures.replaying import replay

CAPTURES = Path(__file__).parents[2] / "captures"
Written = list[tuple[EntryKind, bytes]]


@st.composite
def entries(draw: st.DrawFn) -> tuple[EntryKind, bytes]:
    kind = draw(st.sampled_from(EntryKind))
    fewest, most = BOUNDS[kind]
    return kind, draw(st.binary(min_size=fewest, max_size=min(most, fewest + 300)))


def written(what: Written) -> bytes:
    file = io.BytesIO()
    writer = RecordingWriter(file)
    for kind, payload in what:
        writer.write(kind, payload)
    writer.flush()
    return file.getvalue()


def read(data: bytes) -> tuple[RecordingReader, list[Entry]]:
    reader = RecordingReader(io.BytesIO(data))
    return reader, list(reader.entries())


@given(st.lists(entries(), max_size=20))
def test_every_entry_comes_back_as_it_was(what: Written):
    data = written(what)
    reader, found = read(data)

    assert what == [(entry.kind, entry.payload) for entry in found]
    assert (False, len(data)) == (reader.is_cut, reader.offset)


@given(st.lists(entries(), min_size=1, max_size=5), st.data())
def test_a_cut_file_gives_its_whole_entries_and_says_so(what: Written, data: st.DataObject):
    """A writer that is killed leaves half an entry: no error, but not silence either."""
    whole = written(what)
    ends = [len(written(what[:count])) for count in range(len(what) + 1)]
    end = data.draw(st.integers(HEADER.size, len(whole)))

    reader, found = read(whole[:end])

    count = max(index for index, at in enumerate(ends) if at <= end)
    assert what[:count] == [(entry.kind, entry.payload) for entry in found]
    assert (end not in ends, ends[count]) == (reader.is_cut, reader.offset)


@pytest.mark.parametrize("kind", EntryKind)
def test_a_payload_outside_its_bounds_is_neither_written_nor_read(kind: EntryKind):
    """So no length in a file makes a reader take much memory."""
    fewest, most = BOUNDS[kind]
    for length in {max(0, fewest - 1), most + 1} - {fewest, most}:
        with pytest.raises(ValueError, match=kind.name):
            written([(kind, bytes(length))])
        with pytest.raises(DecodeError, match=f"{kind.name} of {length} bytes at {HEADER.size}"):
            read(written([]) + struct.pack("<BI", kind, length) + bytes(length))


def test_a_length_of_four_gigabytes_is_refused_before_anything_is_read():
    with pytest.raises(DecodeError, match="SAMPLE of 4294967295 bytes"):
        read(written([]) + struct.pack("<BI", EntryKind.SAMPLE, 2**32 - 1))


@pytest.mark.parametrize("number", [0, 9, 255])
def test_an_entry_of_no_known_kind_is_refused_with_its_place(number: int):
    with pytest.raises(DecodeError, match=f"kind {number} at {HEADER.size}"):
        read(written([]) + struct.pack("<BI", number, 0))


@given(st.frozensets(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 65535)), max_size=10))
def test_the_agents_own_endpoints_come_back(endpoints: frozenset[tuple[bytes, int]]):
    assert endpoints == decode_own(Entry(EntryKind.OWN, encode_own(endpoints), 0))


def test_half_an_endpoint_and_a_slot_that_is_not_there_are_refused():
    with pytest.raises(DecodeError, match="at 77"):
        decode_own(Entry(EntryKind.OWN, bytes(17), 77))
    with pytest.raises(DecodeError, match=f"slot {PROGRESS_SLOTS} at 77"):
        decode_slot(Entry(EntryKind.SLOT, INDEX.pack(PROGRESS_SLOTS) + bytes(PROGRESS.size), 77))


@given(st.sampled_from(sorted(CAPTURES.glob("*.recording"))), st.randoms(use_true_random=False))
def test_a_recording_with_wrong_bytes_gives_an_answer_or_a_refusal(path: Path, chance: random.Random):
    """Who replays a recording may have it from anybody."""
    data = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(HEADER.size, len(data))
        data[at] = chance.choice((chance.randrange(256), data[at] ^ 1 << chance.randrange(8), 0, 255))
    if chance.random() < 0.3:
        at = chance.randrange(HEADER.size, len(data))
        data[at : at + chance.randint(1, 50)] = chance.randbytes(chance.randint(0, 50))

    try:
        played, exchanges, _ = replay(bytes(data))
    except DecodeError as error:
        assert str(error)
        return
    assert played.whole_bytes <= len(data)
    assert len(exchanges) <= len(data)


def test_what_is_written_is_in_the_file_after_a_flush(tmp_path: Path):
    """An agent that is killed has lost one pass at most."""
    path = tmp_path / "recording"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
        writer = RecordingWriter(file)
        writer.write(EntryKind.TICK, bytes(8))
        writer.flush()

        assert [EntryKind.TICK] == [entry.kind for entry in read(path.read_bytes())[1]]
