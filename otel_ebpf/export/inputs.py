"""All that the pipeline's work depends on while it runs, through one door: as it happens, or recorded as it happens.

In:   shared memory of the kernel, both clocks, frames of the probe, the agent's own connections
Out:  the same, to the pipeline; a recording, if one was asked for
Owns: what has been written to the recording last

replay.py has the third form, which reads a recording. What the pipeline gives is a function of these calls, in
their order, and of its Facts.
"""

import time
from collections.abc import Callable
from typing import Protocol

from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.records.decode import Buffer
from otel_ebpf.records.frames import Frame, encode_frame
from otel_ebpf.records.layouts import PROGRESS_SLOTS
from otel_ebpf.records.progress import PROGRESS_TABLE_BYTES, Progress, ProgressTable
from otel_ebpf.records.recording import INDEX, OFFSET, TIME, EntryKind, RecordingWriter, encode_own
from otel_ebpf.records.ring import RingReader
from otel_ebpf.telemetry.clock import offset_ns

Handle = Callable[[Buffer, int, int], None]
CLOCK_READINGS = 5  # a microsecond in all


class Inputs(Protocol):
    """Times are CLOCK_MONOTONIC nanoseconds."""

    @property
    def produced(self) -> int: ...
    def accept(self, frame: Frame) -> int:
        """A frame has come; returns when."""
        ...

    def begin_tick(self) -> int:
        """One pass begins; returns when."""
        ...

    def clock_offset_ns(self) -> int: ...
    def drain(self, handle: Handle, until: int) -> int: ...
    def read_progress(self, connection: int, position: int) -> Progress | None: ...
    def own_endpoints(self) -> frozenset[Endpoint]: ...
    def finish(self) -> int:
        """No further pass will come; returns when that was."""
        ...


def no_endpoints() -> frozenset[Endpoint]:
    """Of an agent that sends nothing."""
    return frozenset()


class LiveInputs:
    """Each call goes straight to where the answer is."""

    def __init__(
        self,
        ring: RingReader,
        progress: ProgressTable,
        own_endpoints: Callable[[], frozenset[Endpoint]] = no_endpoints,
    ) -> None:
        self.drain = ring.drain
        self.read_progress = progress.read
        self.own_endpoints = own_endpoints
        self.begin_tick = self.finish = time.monotonic_ns
        self._ring = ring

    @property
    def produced(self) -> int:
        return self._ring.produced

    def accept(self, frame: Frame) -> int:
        return time.monotonic_ns()

    def clock_offset_ns(self) -> int:
        """Of several readings the one that took the shortest: this process may be held up between the two clocks."""
        readings = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(CLOCK_READINGS)]
        before_ns, unix_ns, after_ns = min(readings, key=lambda reading: reading[2] - reading[0])
        return offset_ns((before_ns + after_ns) // 2, unix_ns)


class Redaction(Protocol):
    """See exchanges/redaction.py."""

    def frame(self, frame: Frame) -> Frame: ...
    def sample(self, sample: bytes) -> bytes: ...
    def slot(self, slot: bytes) -> bytes: ...
    def progress(self, connection: int, progress: Progress, now_ns: int) -> None: ...


class RecordingInputs:
    """The same, written down. A recording that cannot be written ends, with a word; the agent goes on."""

    def __init__(
        self,
        live: Inputs,
        progress: ProgressTable,
        writer: RecordingWriter,
        redaction: Redaction | None,
        report: Callable[[str], None],
    ) -> None:
        self._live = live
        self._progress = progress
        self._writer: RecordingWriter | None = writer
        self._redaction = redaction
        self._report = report
        self._now_ns = 0
        # What a replay will have in the place of the kernel's table.
        self._copy = bytearray(PROGRESS_TABLE_BYTES)
        self._copied = ProgressTable.over(self._copy)
        self._slots: dict[int, bytes] = {}
        self._slots_of_tick: set[int] = set()
        self._own: frozenset[Endpoint] = frozenset()

    @property
    def produced(self) -> int:
        return self._live.produced

    def accept(self, frame: Frame) -> int:
        now_ns = self._live.accept(frame)
        kept = frame if self._redaction is None else self._redaction.frame(frame)
        self._write(EntryKind.FRAME, TIME.pack(now_ns) + encode_frame(kept))
        return now_ns

    def begin_tick(self) -> int:
        self.flush()
        self._slots_of_tick.clear()
        self._now_ns = self._live.begin_tick()
        self._write(EntryKind.TICK, TIME.pack(self._now_ns))
        return self._now_ns

    def clock_offset_ns(self) -> int:
        found = self._live.clock_offset_ns()
        self._write(EntryKind.CLOCK, OFFSET.pack(found))
        return found

    def drain(self, handle: Handle, until: int) -> int:
        def record(data: Buffer, offset: int, length: int) -> None:
            sample = data[offset : offset + length]
            self._write(EntryKind.SAMPLE, sample if self._redaction is None else self._redaction.sample(sample))
            handle(data, offset, length)

        return self._live.drain(record, until)

    def read_progress(self, connection: int, position: int) -> Progress | None:
        index = connection & (PROGRESS_SLOTS - 1)
        # The kernel may write between two readings of one pass; a replay has one content of a slot for each pass.
        if index not in self._slots_of_tick:
            self._slots_of_tick.add(index)
            slot = self._progress.slot_bytes(index)
            if slot != self._slots.get(index):
                self._slots[index] = slot
                self._copy[index * len(slot) : (index + 1) * len(slot)] = slot
                kept = slot if self._redaction is None else self._redaction.slot(slot)
                self._write(EntryKind.SLOT, INDEX.pack(index) + kept)
        progress = self._copied.read(connection, position)
        if self._redaction is not None and progress is not None and progress.position == position:
            self._redaction.progress(connection, progress, self._now_ns)
        return progress

    def own_endpoints(self) -> frozenset[Endpoint]:
        found = self._live.own_endpoints()
        if found != self._own:
            self._own = found
            self._write(EntryKind.OWN, encode_own(found))
        return found

    def finish(self) -> int:
        now_ns = self._live.finish()
        self._slots_of_tick.clear()
        self._write(EntryKind.FINISH, TIME.pack(now_ns))
        return now_ns

    def flush(self) -> None:
        """At each tick, and at the end."""
        try:
            if self._writer is not None:
                self._writer.flush()
        except OSError as error:
            self._stop(error)

    def _write(self, kind: EntryKind, payload: bytes) -> None:
        try:
            if self._writer is not None:
                self._writer.write(kind, payload)
        except (OSError, ValueError) as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._writer = None
        self._report(f"the recording ends here, it cannot be written: {error}")
