"""The sender against HTTP collectors that behave, and that do not."""

import socket
import time

import pytest

from otel_ebpf.export import sender as sender_module
from otel_ebpf.export.sender import SendCounts
from tests.unit.export.collectors import (
    HANG_UP,
    OK,
    STALL,
    answer,
    free_port,
    http_collector,
    partial,
    settings,
    wait_until,
)
from tests.unit.export.sending import encoded, sending

FAR_BELOW_AN_ATTEMPT_S = 30  # which may take an hour here


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off by tenths of a second, so that tests of it do not wait for long."""
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 0.05)


def test_spans_arrive_in_order_as_protobuf():
    """OTLP/HTTP: POST, application/x-protobuf, the official user agent."""
    with http_collector() as collector, sending(settings(collector.endpoint, headers=(("x-key", "secret"),))) as own:
        own.put("a", "b")
        wait_until(lambda: collector.names() == ["a", "b"], "both spans")
        own.put("c")

        assert SendCounts(exported=3, rejected=0, dropped=0, failed=0) == own.stop()
        assert ["a", "b", "c"] == collector.names()
        headers = collector.received[0].headers
        assert ("application/x-protobuf", "secret") == (headers["content-type"], headers["x-key"])
        assert headers["user-agent"].startswith("OTel-OTLP-Exporter-Python/")
        assert collector.received[0].head.startswith(b"POST /v1/traces HTTP/1.1")
        assert [] == own.messages


def test_one_connection_serves_all_batches():
    with http_collector() as collector, sending(settings(collector.endpoint), batch_spans=1) as own:
        own.put(*"abcdef")
        own.stop()

        assert (6, 1) == (len(collector.received), len(collector.connections))


def test_gzip_is_applied_when_asked_for():
    with http_collector() as collector, sending(settings(collector.endpoint, compression="gzip")) as own:
        own.put("a")
        own.stop()

        assert "gzip" == collector.received[0].headers["content-encoding"]
        assert ["a"] == collector.names()


def test_batches_are_bounded_in_spans_and_in_bytes():
    with http_collector() as collector, sending(settings(collector.endpoint), batch_spans=3) as own:
        own.put(*"abcdefg")
        own.stop()
        assert [3, 3, 1] == [len(request.names()) for request in collector.received]

    with http_collector() as collector, sending(settings(collector.endpoint), batch_bytes=2 * len(encoded("a"))) as own:
        own.put(*"abc")
        own.stop()
        assert [2, 1] == [len(request.names()) for request in collector.received]


def test_collector_that_is_down_loses_nothing_and_is_reported_once():
    """Down and up again: one message each, every span in the end."""
    port = free_port()
    with sending(settings(f"http://127.0.0.1:{port}/v1/traces")) as own:
        own.put("a", "b")
        wait_until(lambda: len(own.messages) == 1, "the complaint")
        failures = own.sender._failures_in_row
        wait_until(lambda: own.sender._failures_in_row > failures + 1, "more attempts")
        assert 1 == len(own.messages)
        assert "Connection refused" in own.messages[0]

        with http_collector(port=port) as collector:
            wait_until(lambda: own.sender.counts().exported == 2, "delivery")
            wait_until(lambda: len(own.messages) == 2, "the all-clear")
            assert "again" in own.messages[1]
            assert ["a", "b"] == collector.names()


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Service Unavailable", "504 x"])
def test_retryable_answer_is_tried_again(status: str):
    """OTLP specification, Retryable Response Codes."""
    with http_collector(answer(status), OK) as collector, sending(settings(collector.endpoint)) as own:
        own.put("a")
        wait_until(lambda: own.sender.counts().exported == 1, "delivery")

        assert ["a", "a"] == collector.names()
        assert status.split()[0] in own.messages[0]


def test_retry_after_is_respected():
    """RFC 9110 10.2.3: not before the second has passed, though the back-off is shorter."""
    with http_collector(answer("429 x", Retry_After=1), OK) as collector, sending(settings(collector.endpoint)) as own:
        began = time.monotonic()
        own.put("a")
        wait_until(lambda: own.sender.counts().exported == 1, "delivery")

        assert ["a", "a"] == collector.names()
        assert 1 <= time.monotonic() - began


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "500 Oops"])
def test_refused_batch_is_not_sent_again(status: str):
    """OTLP specification: all other 4xx and 5xx must not be retried. Counted, and reported once."""
    with http_collector(answer(status)) as collector, sending(settings(collector.endpoint)) as own:
        own.put("a")
        wait_until(lambda: own.sender.counts().rejected == 1, "refusal")
        own.put("b", "c")

        assert SendCounts(exported=0, rejected=3, dropped=0, failed=0) == own.stop()
        assert ["a", "b", "c"] == collector.names()
        assert 1 == len(own.messages)
        assert status.strip() in own.messages[0]


def test_redirect_is_a_failure_and_is_not_followed():
    """A redirected POST becomes a GET without the spans."""
    with http_collector() as elsewhere:
        moved = answer("302 Found", Location=elsewhere.endpoint)
        with http_collector(moved, moved, OK) as collector, sending(settings(collector.endpoint)) as own:
            own.put("a")
            wait_until(lambda: own.sender.counts().exported == 1, "delivery")

            assert ["a", "a", "a"] == collector.names()
            assert [] == elsewhere.received
            assert "redirect" in own.messages[0]


def test_partial_success_is_counted_and_reported():
    """OTLP specification, Partial Success: not sent again."""
    some = answer("200 OK", partial(2, "too old\x1b[2J").SerializeToString())
    with http_collector(some) as collector, sending(settings(collector.endpoint)) as own:
        own.put("a", "b", "c")

        assert SendCounts(exported=1, rejected=2, dropped=0, failed=0) == own.stop()
        assert 1 == len(collector.received)
        assert "too old" in own.messages[0]
        assert "\x1b" not in own.messages[0]


def test_warning_without_rejected_spans_is_no_loss():
    """OTLP specification: error_message with rejected_spans 0 is a warning."""
    with http_collector(answer("200 OK", partial(0, "hm").SerializeToString())) as collector:  # noqa: SIM117
        with sending(settings(collector.endpoint)) as own:
            own.put("a")
            assert SendCounts(1, 0, 0, 0) == own.stop()


def test_answer_that_is_no_protobuf_still_counts_as_taken():
    with (
        http_collector(answer("200 OK", b"<html>fine</html>")) as collector,
        sending(settings(collector.endpoint)) as own,
    ):
        own.put("a")
        assert SendCounts(1, 0, 0, 0) == own.stop()


def test_connection_closed_before_the_answer_is_tried_again():
    with http_collector(HANG_UP, HANG_UP, HANG_UP, OK) as collector, sending(settings(collector.endpoint)) as own:
        own.put("a")
        wait_until(lambda: own.sender.counts().exported == 1, "delivery")

        assert ["a"] * 4 == collector.names()


def test_stale_connection_costs_no_back_off(monkeypatch: pytest.MonkeyPatch):
    """A collector closes idle connections; the next batch must not wait for that, nor be reported."""
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 60.0)
    with (
        http_collector(answer("200 OK", Connection="close")) as collector,
        sending(settings(collector.endpoint)) as own,
    ):
        for number in range(5):
            own.put("a")
            wait_until(lambda wanted=number + 1: own.sender.counts().exported == wanted, "delivery")

        assert [] == own.messages


def test_stalling_collector_is_given_up_after_the_timeout():
    """OTEL_EXPORTER_OTLP_TIMEOUT is in milliseconds."""
    with http_collector(STALL, OK) as collector, sending(settings(collector.endpoint, timeout_ms=200)) as own:
        began = time.monotonic()
        own.put("a")
        wait_until(lambda: own.sender.counts().exported == 1, "delivery")

        assert 0.2 <= time.monotonic() - began
        assert "no answer in time" in own.messages[0]


def test_full_queue_drops_the_oldest_and_counts():
    port = free_port()
    size = len(encoded("a"))
    with sending(settings(f"http://127.0.0.1:{port}/v1/traces"), queue_bytes=3 * size) as own:
        own.put(*"abcde")
        wait_until(lambda: len(own.messages) == 1 and own.sender.queue.waiting == 3, "a failed attempt")
        with http_collector(port=port) as collector:
            wait_until(lambda: own.sender.counts().exported == 3, "delivery")
            assert ["c", "d", "e"] == collector.names()
            assert SendCounts(exported=3, rejected=0, dropped=2, failed=0) == own.stop()


def test_put_never_waits_for_the_collector():
    """The ring must be drained whatever the collector does."""
    patient = {"timeout_ms": 3_600_000}  # or else the collector would be given up, and asked again
    with http_collector(STALL) as collector, sending(settings(collector.endpoint, **patient), batch_spans=1) as own:
        own.put("a")
        wait_until(lambda: len(collector.received) == 1, "a request in flight")
        own.put(*"b" * 200)

        assert (1, 201) == (len(collector.received), own.sender.counts().waiting)
        own.stop(0.1)


@pytest.mark.parametrize("behaviour", [STALL, "down", "429"])
def test_stop_keeps_its_deadline(behaviour: str):
    """In flight, in back-off or refused: it returns in time, and accounts for every span."""
    port = free_port()
    answers = {STALL: STALL, "429": answer("429 x", Retry_After=600)}
    with http_collector(answers.get(behaviour, OK), port=port if behaviour != "down" else free_port()):
        patient = {"timeout_ms": 3_600_000}
        with sending(settings(f"http://127.0.0.1:{port}/v1/traces", **patient), batch_spans=2) as own:
            own.put("a", "b", "c")
            wait_until(lambda: own.messages or own.sender.queue.waiting == 1, "the first attempt")
            began = time.monotonic()
            counts = own.stop(0.5)

            assert time.monotonic() - began < FAR_BELOW_AN_ATTEMPT_S
            assert SendCounts(exported=0, rejected=0, dropped=0, failed=3) == counts


def test_stop_sends_what_waits():
    with http_collector() as collector, sending(settings(collector.endpoint), schedule_delay_ms=60_000) as own:
        own.put("a", "b")

        assert SendCounts(2, 0, 0, 0) == own.stop(5)
        assert ["a", "b"] == collector.names()


def test_sender_that_never_started_can_be_stopped():
    with sending(settings("http://127.0.0.1:1/v1/traces"), is_started=False) as own:
        own.put("a")
        assert SendCounts(0, 0, 0, failed=1) == own.stop(1)


def test_construction_starts_no_thread_and_opens_no_connection():
    """Rights are dropped between construction and start; capabilities belong to threads."""
    import threading

    before = set(threading.enumerate())
    with http_collector() as collector, sending(settings(collector.endpoint), is_started=False) as own:
        assert "otlp-sender" not in {thread.name for thread in set(threading.enumerate()) - before}
        assert [] == collector.connections
        assert frozenset() == own.sender.own_endpoints()


def test_own_connections_are_known_before_the_collector_sees_a_request():
    """So that a watched collector's spans of our exports can be left out."""
    with http_collector() as collector, sending(settings(collector.endpoint)) as own:
        own.put("a")
        wait_until(lambda: len(collector.received) == 1, "a request")
        host, port = collector.connections[0].getpeername()
        packed = socket.inet_aton(host)

        assert {(packed.ljust(16, b"\0"), port), (bytes(10) + b"\xff\xff" + packed, port)} <= own.sender.own_endpoints()


def test_messages_hold_no_credentials():
    with sending(
        settings(f"http://user:hunter2@127.0.0.1:{free_port()}/v1/traces", headers=(("x-key", "s3cret"),))
    ) as own:
        own.put("a")
        wait_until(lambda: len(own.messages) == 1, "the complaint")

        assert "hunter2" not in own.messages[0]
        assert "s3cret" not in own.messages[0]


def test_credentials_of_the_endpoint_are_sent_as_basic_authorization():
    """RFC 7617."""
    with http_collector() as collector:
        with sending(settings(f"http://user:pw@127.0.0.1:{collector.port}/v1/traces")) as own:
            own.put("a")
            own.stop()
        assert "Basic dXNlcjpwdw==" == collector.received[0].headers["authorization"]
