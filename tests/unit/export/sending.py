"""A running sender for a test, with its messages, stopped whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from otel_ebpf.export.otlp import SpanEncoder, encode_resource
from otel_ebpf.export.sender import SendCounts, Sender, SenderOptions
from otel_ebpf.export.spool import Spool
from otel_ebpf.otlp_settings import OtlpSettings
from otel_ebpf.telemetry.spans import Series
from tests.unit.telemetry.examples import exchange, span_of

RESOURCE = encode_resource({"service.name": "shop"})


@cache
def encoded(name: str) -> bytes:
    """A whole span that is told apart by its name."""
    span = span_of(exchange())
    return SpanEncoder().encode_span(span._replace(series=Series(name.encode(), 2, False, span.series.attributes)))


@dataclass
class Sending:
    sender: Sender
    messages: list[str] = field(default_factory=list)

    def put(self, *names: str) -> None:
        self.sender.queue.put(RESOURCE, [encoded(name) for name in names])

    def stop(self, seconds: float = 30.0) -> SendCounts:
        return self.sender.stop(seconds)


@contextmanager
def sending(
    settings: OtlpSettings,
    is_started: bool = True,
    spool_folder: Path | None = None,
    spool_bytes: int = 64 << 20,
    **options: Any,
) -> Iterator[Sending]:
    messages: list[str] = []
    plain = {"schedule_delay_ms": 20, "batch_spans": 100}
    spool = Spool(spool_folder, spool_bytes, messages.append) if spool_folder is not None else None
    sender = Sender(settings, "1.2.3", messages.append, SenderOptions(**{**plain, **options}), spool)
    if is_started:
        sender.start()
    try:
        yield Sending(sender, messages)
    finally:
        sender.stop(0)
