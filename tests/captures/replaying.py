"""Runs a recording, and keeps the exchanges that come of it."""

import io
from pathlib import Path

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.export.console import Console
from otel_ebpf.export.replay import Replay, SpanFile
from otel_ebpf.telemetry.spans import SpanData

CAPTURES = Path(__file__).parent


class SeenExchanges(Console):
    """In the place of the printer: the last one to see exchanges as such."""

    def __init__(self) -> None:
        super().__init__("text", io.StringIO())
        self.exchanges: list[Exchange] = []

    def add(self, exchange: Exchange, span: SpanData, service: str) -> None:
        self.exchanges.append(exchange)


def facts_of(exchange: Exchange) -> dict[str, object]:
    return {
        "method": exchange.method.decode("latin-1"),
        "target": exchange.target.decode("latin-1"),
        "status": exchange.status,
        "request_body_bytes": exchange.request_body_bytes,
        "response_body_bytes": exchange.response_body_bytes,
        "outcome": exchange.outcome.value,
    }


def replay(recording: bytes) -> tuple[Replay, list[Exchange], bytes]:
    """The replay when it is over, its exchanges, its spans as one OTLP request."""
    seen, spans = SeenExchanges(), SpanFile()
    replayed = Replay(io.BytesIO(recording), seen, spans)
    replayed.run()
    return replayed, seen.exchanges, spans.encode(replayed.version)
