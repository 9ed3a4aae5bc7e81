"""Well-formed exchanges, cut and lost at will: each is reported as it was sent or it is counted, never a wrong one."""

from otel_ebpf.exchanges.exchange import Outcome, Unknown
from tests.fuzz.choices import Choices
from tests.fuzz.traffic import Traffic


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    traffic = Traffic(choices)
    for _ in range(20):
        if not choices.are_left:
            break
        connection = choices.one_of(traffic.connections)
        traffic.honest_exchanges(connection)
    traffic.end()

    traffic.check_account()
    reported = [exchange.target for exchange in traffic.exchanges]
    assert len(set(reported)) == len(reported)
    for exchange in traffic.exchanges:
        if exchange.unknown & Unknown.REQUEST_HEAD_CUT:
            continue
        sent = traffic.sent[exchange.target]
        assert sent.method == exchange.method
        assert exchange.status in (None, sent.status)
        assert exchange.outcome in (Outcome.COMPLETE, Outcome.UNKNOWN), "every answer was sent to its end"
        if exchange.outcome is Outcome.COMPLETE:
            assert exchange.request_body_bytes in (None, sent.request_body_bytes)
            assert exchange.response_body_bytes in (None, sent.response_body_bytes)
    if traffic.is_all_seen and not traffic.assembler.losses:
        assert sorted(traffic.sent) == sorted(reported), traffic.assembler.losses
        assert {Outcome.COMPLETE} >= {exchange.outcome for exchange in traffic.exchanges}
