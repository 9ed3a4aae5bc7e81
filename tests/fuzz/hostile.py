"""Any bytes in any calls: nothing raises, all is accounted for, and little is kept."""

from tests.fuzz.choices import Choices
from tests.fuzz.kept import kept_bytes
from tests.fuzz.traffic import Traffic


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    traffic = Traffic(choices)
    for _ in range(50):
        if not choices.are_left:
            break
        traffic.hostile_calls(choices.one_of(traffic.connections))
    kept = kept_bytes(list(traffic.assembler._runs.values()))
    moved = sum(len(record.payload) + 200 for connection in traffic.connections for record in connection.ring.records)
    assert kept <= 3 * moved
    traffic.end()

    traffic.check_account()
    numbers = [(exchange.connection, exchange.position) for exchange in traffic.exchanges]
    assert len(set(numbers)) == len(numbers)
    assert 0 == traffic.assembler.open_count
    assert 0 == kept_bytes(list(traffic.assembler._runs.values()))
