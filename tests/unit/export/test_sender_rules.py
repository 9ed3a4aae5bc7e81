"""The sender's decisions, without a network."""

import pytest

from otel_ebpf.errors import AgentError
from otel_ebpf.export.attempts import (
    Attempt,
    Result,
    delivered,
    parse_retry_after,
    printable_detail,
    refused,
    try_again,
)
from otel_ebpf.export.collector_state import CollectorState, SignalWords
from otel_ebpf.export.sender import back_off_seconds, make_transport
from otel_ebpf.export.trust import client_context, read_trusted
from tests.unit.export.collectors import partial, settings

TAKEN = Attempt(Result.DELIVERED)
SPANS = SignalWords("spans", "they are kept meanwhile.", "They are counted as rejected.")


def test_back_off_doubles_to_half_a_minute():
    waits = [back_off_seconds(failures, None, jitter=1.0) for failures in (1, 2, 3, 4, 5, 6, 7, 5000)]

    assert [1, 2, 4, 8, 16, 30, 30, 30] == waits


def test_back_off_is_spread():
    """Agents of many hosts must not come back at once."""
    waits = {back_off_seconds(1, None) for _ in range(50)}

    assert len(waits) > 1
    assert all(0.8 <= wait <= 1.2 for wait in waits)


def test_collector_says_when_to_come_back():
    """Within reason: an hour from a confused collector is cut to ten minutes."""
    assert 30 == back_off_seconds(1, 30.0)
    assert 600 == back_off_seconds(1, 3600.0)
    assert back_off_seconds(1, 0.0) > 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("2", 2.0),
        (" 120 ", 120.0),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2020 07:28:00 GMT", 0.0),
        ("9" * 400, 999_999_999.0),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None):
    """RFC 9110 10.2.3."""
    assert seconds == parse_retry_after(value, unix_now_seconds=1792567650.0)


def test_state_is_told_once_however_many_batches_fail():
    state = CollectorState("http://c", SPANS)
    told = [state.message(attempt, now, 0) for now, attempt in enumerate([TAKEN, *[try_again("x")] * 50, TAKEN, TAKEN])]

    assert 2 == len([message for message in told if message])
    assert "takes no spans: x" in str(told[1])
    assert "again after 50 s" in str(told[51])


def test_recovery_tells_what_was_dropped():
    state = CollectorState("http://c", SPANS)
    state.message(try_again("x"), 0, 5)

    assert "7 were dropped" in str(state.message(TAKEN, 1, 7))


def test_collector_that_comes_and_goes_is_told_twice_in_ten_seconds_at_most():
    """Never a message a batch."""
    state = CollectorState("http://c", SPANS)
    attempts = [(tenth / 10, try_again("x") if tenth % 2 else TAKEN) for tenth in range(100)]

    assert 2 == len([message for message in (state.message(attempt, now, 0) for now, attempt in attempts) if message])
    assert "takes no spans" in str(state.message(try_again("x"), 20, 0))


def test_the_last_attempt_is_known_also_when_no_message_told_of_it():
    state = CollectorState("http://c", SPANS)
    seen = [state.last]
    for attempt in (TAKEN, try_again("no route"), TAKEN, refused("401"), delivered(partial(2, "old"))):
        state.message(attempt, 0, 0)
        seen.append(state.last)

    assert [
        "nothing was sent yet",
        "takes spans",
        "takes no spans now: no route",
        "takes spans",
        "refuses spans: 401",
        "rejects some spans: old",
    ] == seen


def test_change_of_the_failure_is_told():
    state = CollectorState("http://c", SPANS)
    state.message(try_again("x"), 0, 0)

    assert "refuses" in str(state.message(refused("401"), 11, 0))
    assert "rejects spans (2" in str(state.message(delivered(partial(2, "x")), 22, 0))


def test_end_of_partial_success_is_no_news():
    state = CollectorState("http://c", SPANS)
    state.message(delivered(partial(2, "x")), 0, 0)

    assert state.message(TAKEN, 20, 0) is None


def test_words_of_the_collector_are_printable_and_short():
    """Terminal escapes and novels from another program."""
    assert "[2Jhi there" == printable_detail("\x1b[2Jhi\nthere\x07")
    assert 200 == len(printable_detail("x" * 5000))


def test_missing_certificate_names_setting_and_file():
    """What failed, the value seen, what to do."""
    wrong = settings("https://c", certificate="/no/such.pem")
    with pytest.raises(AgentError, match=r"OTEL_EXPORTER_OTLP_CERTIFICATE=/no/such\.pem"):
        make_transport(wrong)
    with pytest.raises(AgentError, match="OTEL_EXPORTER_OTLP_CERTIFICATE"):
        make_transport(settings("https://c", certificate="/no/such.pem", protocol="grpc"))


def test_certificate_that_is_none_is_refused(tmp_path):  # type: ignore[no-untyped-def]
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(AgentError, match="OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"):
        client_context(settings("https://c", client_certificate=str(junk), client_key=str(junk)))


def test_some_bundle_of_authorities_is_found():
    """The system's, else certifi's."""
    assert b"BEGIN CERTIFICATE" in read_trusted(settings("https://c"))


def test_exporter_that_cannot_be_fed_is_named(monkeypatch: pytest.MonkeyPatch):
    """Private names are probed at the start, not found missing at the first batch."""
    from opentelemetry.exporter.otlp.common.http import _OTLPHTTPClient
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    with monkeypatch.context() as changed:
        changed.delattr(_OTLPHTTPClient, "_submit")
        with pytest.raises(AgentError, match="proto-http cannot be fed"):
            make_transport(settings("http://c"))
    monkeypatch.setattr(OTLPSpanExporter.__mro__[2], "_initialize_channel_and_stub", None)
    with pytest.raises(AgentError, match="proto-grpc cannot be fed"):
        make_transport(settings("http://c", protocol="grpc"))
