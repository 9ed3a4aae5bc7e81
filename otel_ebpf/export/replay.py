"""Runs the pipeline on a recording in the place of the kernel, the clocks and the probe.

In:   a recording; a printer and a sink for what comes of it
Out:  the pipeline, with its counts, once it has seen all of the recording
Owns: the place in the recording

A newer pipeline may ask for a slot that was not recorded in that pass; it finds the newest content that was.
"""

from typing import BinaryIO

from otel_ebpf.exchanges.kinship import Parents
from otel_ebpf.export.accounts import host_line, service_lines
from otel_ebpf.export.console import Console
from otel_ebpf.export.facts import decode_facts
from otel_ebpf.export.inputs import Handle
from otel_ebpf.export.otlp import encode_batch, encode_scope
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.pipeline import Pipeline, SpanSink
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.frames import Frame, decode_frame
from otel_ebpf.records.kinds import Counter, CounterReading, LedgerReading
from otel_ebpf.records.progress import PROGRESS_TABLE_BYTES, Progress, ProgressTable
from otel_ebpf.records.recording import (
    OFFSET,
    TIME,
    Entry,
    EntryKind,
    RecordingReader,
    decode_own,
    decode_slot,
)

_STATES = (EntryKind.CLOCK, EntryKind.SLOT, EntryKind.OWN)


# What numbers raise that the kernel and the probe would not send, such as times after the year 9999.
_IMPOSSIBLE = (ValueError, TypeError, OverflowError, OSError)


class SpanFile:
    """Keeps spans as one ExportTraceServiceRequest."""

    def __init__(self) -> None:
        self._groups: dict[bytes, list[bytes]] = {}

    def put(self, resource: bytes, spans: list[bytes]) -> None:
        self._groups.setdefault(resource, []).extend(spans)

    def encode(self, version: str) -> bytes:
        return encode_batch(self._groups.items(), encode_scope(version))


class Replay:
    """One recording, seen once."""

    def __init__(self, file: BinaryIO, printer: Console | None, sink: SpanSink | None) -> None:
        """Raises DecodeError, as `run` does, for anything that no recorder writes."""
        self._reader = RecordingReader(file)
        self._entries = self._reader.entries()
        start = next(self._entries, None)
        if start is None or start.kind != EntryKind.START:
            raise DecodeError(f"the recording does not begin with START but with {start and start.kind.name}")
        facts = decode_facts(start.payload)
        self.version = facts.version
        self._entry = next(self._entries, None)
        self.inputs = ReplayedInputs(self)
        if printer is not None:
            printer.secret_keys = facts.secret_keys
        services, builder, outcomes = facts.services(), facts.builder(), facts.outcomes()
        self.pipeline = Pipeline(
            self.inputs, services, builder, facts.sample(), printer, sink, None, outcomes, Parents(facts.parents)
        )

    @property
    def is_cut(self) -> bool:
        """The file ends within an entry, or before the agent was asked to end."""
        return self._reader.is_cut or not self.inputs.is_finished

    @property
    def whole_bytes(self) -> int:
        """How far the file is good."""
        return self._reader.offset

    def run(self) -> None:
        while (entry := self._entry) is not None and entry.kind != EntryKind.FINISH:
            try:
                self._step(entry)
            except _IMPOSSIBLE as error:
                raise DecodeError(f"{entry.kind.name} at {entry.offset} has values that cannot be: {error}") from error
        self.pipeline.finish()
        if self._entry is not None:
            raise DecodeError(f"{self._entry.kind.name} at {self._entry.offset} is behind the end")

    def _step(self, entry: Entry) -> None:
        if entry.kind == EntryKind.FRAME:
            self.pipeline.take_frame(_with_known_counters(decode_frame(entry.payload[TIME.size :])))
        elif entry.kind == EntryKind.TICK:
            self.pipeline.tick(0)
        else:
            raise DecodeError(f"{entry.kind.name} at {entry.offset} is outside of any pass")

    def account_lines(self) -> list[str]:
        """As `run` told at its end."""
        return [*service_lines(self.pipeline), host_line(self.pipeline, None)]

    def is_at(self, kind: EntryKind) -> bool:
        return self._entry is not None and self._entry.kind == kind

    def take(self, *kinds: EntryKind) -> Entry | None:
        """The next entry when it is of one of these kinds."""
        entry = self._entry
        if entry is None or entry.kind not in kinds:
            return None
        self._entry = next(self._entries, None)
        return entry


def _with_known_counters(frame: Frame) -> Frame:
    """The recorder's kernel side may have counted fewer things, or more."""
    if isinstance(frame, CounterReading):
        return CounterReading(_fit(frame.values, len(Counter)))
    if isinstance(frame, LedgerReading):
        return LedgerReading(tuple(_fit(row, 2 + len(Counter)) for row in frame.rows))
    return frame


def _fit(numbers: tuple[int, ...], count: int) -> tuple[int, ...]:
    return (numbers + (0,) * count)[:count]


class ReplayedInputs:
    """Answers as the recording has it. Behind its end nothing changes any more."""

    produced = 0

    def __init__(self, replay: Replay) -> None:
        self.is_finished = False
        self._replay = replay
        self._now_ns = 0
        self._offset_ns = 0
        self._own: frozenset[Endpoint] = frozenset()
        self._table = bytearray(PROGRESS_TABLE_BYTES)
        self.progress = ProgressTable.over(self._table)

    def accept(self, frame: Frame) -> int:
        return self._take_time(EntryKind.FRAME)

    def begin_tick(self) -> int:
        self._take_time(EntryKind.TICK)
        self._take_states()
        return self._now_ns

    def clock_offset_ns(self) -> int:
        return self._offset_ns

    def drain(self, handle: Handle, until: int) -> int:
        seen = 0
        while (entry := self._replay.take(EntryKind.SAMPLE)) is not None:
            handle(entry.payload, 0, len(entry.payload))
            seen += 1
        self._take_states()
        return seen

    def read_progress(self, connection: int, position: int) -> Progress | None:
        return self.progress.read(connection, position)

    def own_endpoints(self) -> frozenset[Endpoint]:
        return self._own

    def finish(self) -> int:
        self.is_finished = self._replay.is_at(EntryKind.FINISH)
        self._take_time(EntryKind.FINISH)
        self._take_states()
        return self._now_ns

    def _take_time(self, kind: EntryKind) -> int:
        entry = self._replay.take(kind)
        if entry is not None:
            (self._now_ns,) = TIME.unpack_from(entry.payload)
        return self._now_ns

    def _take_states(self) -> None:
        """What the recorder was told in this pass; each was asked once at most, so the order is of no account."""
        while (entry := self._replay.take(*_STATES)) is not None:
            if entry.kind == EntryKind.CLOCK:
                (self._offset_ns,) = OFFSET.unpack(entry.payload)
            elif entry.kind == EntryKind.OWN:
                self._own = decode_own(entry)
            else:
                index, slot = decode_slot(entry)
                self._table[index * len(slot) : (index + 1) * len(slot)] = slot
