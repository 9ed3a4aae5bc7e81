"""What `--record-redacted` leaves out of a recording.

In:   what is about to be recorded
Out:  the same without secrets: spans of a replay differ in the values that are gone, and in nothing else
Owns: what masking.py has to know of each connection

Command lines become the service's name, which is all that is made of them.
"""

from dataclasses import replace

from otel_ebpf.exchanges.masking import Masks, mask_tail
from otel_ebpf.export.facts import Facts
from otel_ebpf.records.decode import DecodeError, decode_record, is_lookup
from otel_ebpf.records.frames import Frame
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.records.layouts import PROGRESS, RECORD
from otel_ebpf.records.progress import Progress
from otel_ebpf.telemetry.resource import resource_attributes


class Redaction:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._masks = Masks(facts.headers.shown)

    def frame(self, frame: Frame) -> Frame:
        if not isinstance(frame, ServiceIdentity):
            return frame
        name = str(resource_attributes(frame, self._facts.host, self._facts.version)["service.name"])
        return replace(frame, argv=(), environ={**frame.environ, "OTEL_SERVICE_NAME": name.encode()})

    def sample(self, sample: bytes) -> bytes:
        """Of one that cannot be decoded, only the beginning that says so. Names that were looked up stay, as hosts do."""
        if is_lookup(sample, 0, len(sample)):
            return sample
        try:
            record = decode_record(sample, 0, len(sample))
        except DecodeError:
            return sample[: RECORD.size].ljust(len(sample), b"\0")
        masked = record._replace(tail=mask_tail(record.tail), payload=self._masks.feed(record))
        return (RECORD.pack(*masked[:-1]) + masked.payload).ljust(len(sample), b"\0")

    def slot(self, slot: bytes) -> bytes:
        *fields, tail, unused = PROGRESS.unpack(slot)
        return PROGRESS.pack(*fields, mask_tail(tail), unused)

    def progress(self, connection: int, progress: Progress, now_ns: int) -> None:
        self._masks.advance(connection, progress, now_ns)
