"""Samples of the rings and slots of the progress table: what is taken is what was there, and nothing behind it."""

import contextlib

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.lookups import Lookups
from otel_ebpf.records.decode import DecodeError, decode_lookup, decode_process_event, decode_record
from otel_ebpf.records.layouts import LOOKUP, PROCESS_EVENT, PROGRESS, RECORD
from otel_ebpf.records.progress import PROGRESS_TABLE_BYTES, ProgressTable
from tests.fuzz.choices import Choices

_TABLE = bytearray(PROGRESS_TABLE_BYTES)


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    offset, behind = choices.number() % 16, choices.number() % 16
    sample = choices.rest()
    buffer = bytes(offset) + sample + b"\xff" * behind
    with contextlib.suppress(DecodeError):
        record = decode_record(buffer, offset, len(sample))
        assert record.captured_bytes == len(record.payload)
        assert (RECORD.pack(*record[:-1]) + record.payload) == sample[: RECORD.size + record.captured_bytes]
        Assembler().feed(record)
    with contextlib.suppress(DecodeError):
        lookup = decode_lookup(buffer, offset, len(sample))
        assert len(sample) == LOOKUP.size
        assert b"\0" not in lookup.name
        assert lookup.name in sample
        assert all(address in sample for _, address in lookup.answers)
        Lookups().add(lookup)
    with contextlib.suppress(DecodeError):
        event = decode_process_event(buffer, offset, len(sample))
        again = event._replace(command=event.command.ljust(16, b"\0"))
        assert PROCESS_EVENT.pack(*again) == sample[: PROCESS_EVENT.size]
    if len(sample) >= PROGRESS.size:
        _read_slot(sample[: PROGRESS.size])


def _read_slot(slot: bytes) -> None:
    connection, position = PROGRESS.unpack(slot)[:2]
    table = ProgressTable.over(_TABLE)
    index = connection % (PROGRESS_TABLE_BYTES // PROGRESS.size)
    place = slice(index * PROGRESS.size, (index + 1) * PROGRESS.size)
    _TABLE[place] = slot
    try:
        progress = table.read(connection, position)
        assert progress is not None
        assert position == progress.position
        assert table.read(connection ^ 1 << 40, position) is None
        assert table.read(connection, position + 1) is None
        assert table.slot_bytes(index) == slot
    finally:
        _TABLE[place] = bytes(PROGRESS.size)
