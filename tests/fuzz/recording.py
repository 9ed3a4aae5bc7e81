"""Files given to `replay`: refused, or entries that make the same file again and spans that a collector takes."""

import contextlib
import io

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.export.console import Console
from otel_ebpf.export.replay import Replay, SpanFile
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.recording import RecordingReader, RecordingWriter


def fuzz(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        _read(data)
    with contextlib.suppress(DecodeError):
        _replay(data)


def _read(data: bytes) -> None:
    again = io.BytesIO()
    reader = RecordingReader(io.BytesIO(data))
    writer = RecordingWriter(again)
    try:
        for entry in reader.entries():
            writer.write(entry.kind, entry.payload)
    finally:
        assert again.getvalue() == data[: reader.offset]
    assert reader.is_cut == (reader.offset < len(data))


def _replay(data: bytes) -> None:
    spans = SpanFile()
    replayed = Replay(io.BytesIO(data), Console("json", io.StringIO()), spans)
    replayed.run()
    # The official parser refuses text that is not UTF-8.
    ExportTraceServiceRequest.FromString(spans.encode(replayed.version))
