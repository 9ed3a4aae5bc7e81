"""Recordings without secrets: the same exchanges come of them, and nothing of a body or a cookie is left."""

from dataclasses import replace

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.exchanges.line_mask import mask_line
from otel_ebpf.exchanges.masking import Masks, mask_tail
from otel_ebpf.records.kinds import Record
from tests.fuzz.choices import Choices
from tests.fuzz.traffic import SECRET, Traffic


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    is_honest = bool(choices.number() & 1)
    traffic = Traffic(choices)
    for _ in range(20):
        if not choices.are_left:
            break
        connection = choices.one_of(traffic.connections)
        if is_honest:
            traffic.honest_exchanges(connection)
        else:
            traffic.hostile_calls(connection)
    records = [record for connection in traffic.connections for record in connection.ring.records]

    masks = Masks()
    masked = [record._replace(payload=masks.feed(record), tail=mask_tail(record.tail)) for record in records]

    assert [len(record.payload) for record in records] == [len(record.payload) for record in masked]
    assert [_without_query(exchange) for exchange in _exchanges(records)] == _exchanges(masked)
    if is_honest:
        assert not any(SECRET in record.payload or SECRET in record.tail for record in masked)


def _exchanges(records: list[Record]) -> list[Exchange]:
    assembler = Assembler()
    return [exchange for record in records for exchange in assembler.feed(record)]


def _without_query(exchange: Exchange) -> Exchange:
    before = len(exchange.method) + 1
    return replace(exchange, target=mask_line(exchange.method + b" " + exchange.target, True)[before:])
