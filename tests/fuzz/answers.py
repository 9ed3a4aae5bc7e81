"""Answers of a collector: whatever it says, a batch has one outcome, and what is told of it is harmless to print."""

from otel_ebpf.export.attempts import DETAIL_LIMIT_CHARACTERS, parse_retry_after
from otel_ebpf.export.signals import METRICS_SIGNAL, TRACES_SIGNAL
from otel_ebpf.export.transport_http import judge_answer
from tests.fuzz.choices import Choices


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    status = choices.one_of([200, 204, 302, 400, 413, 429, 503, 599])
    reason = choices.some_bytes().decode("latin-1")
    value = choices.some_bytes().decode("latin-1")
    signal = choices.one_of([TRACES_SIGNAL, METRICS_SIGNAL])
    headers = {"retry-after": value, "location": value}
    attempt = judge_answer(signal.response, status, reason, headers, choices.rest())
    assert attempt.detail.isprintable()
    assert len(attempt.detail) <= DETAIL_LIMIT_CHARACTERS
    assert 0 <= attempt.rejected
    seconds = parse_retry_after(value, 1e9)
    assert seconds is None or 0 <= seconds < 1e12
