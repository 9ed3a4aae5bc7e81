"""Collectors that break off, drag on or are no collectors at all; and proxies on the way to a good one."""

import time

import pytest

from otel_ebpf.export import sender as sender_module
from otel_ebpf.export.sender import SendCounts
from tests.services.certificates import make_certificates
from tests.unit.export.collectors import (
    HANG_UP_EARLY,
    OK,
    TRICKLE,
    Answer,
    answer,
    forward_proxy,
    grpc_collector,
    http_collector,
    settings,
    wait_until,
)
from tests.unit.export.sending import sending


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 0.05)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(b"220 mail.example.com ESMTP\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="cut in its head"),
        pytest.param(answer("200 OK", b"x" * 50)[:-20], id="cut in its body"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\n\r\n", id="a status that is no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n", id="headers without end"),
    ],
)
def test_answer_that_cannot_be_read_is_tried_again(fault: bytes):
    """Whether it was taken is not known: rather twice than never."""
    answers: list[Answer] = [lambda received: fault, lambda received: fault, OK]
    with http_collector(*answers) as collector, sending(settings(collector.endpoint, timeout_ms=300)) as own:
        own.put("a")
        wait_until(lambda: own.sender.counts().exported == 1, "delivery")

        assert {"a"} == set(collector.names())
        assert SendCounts(exported=1, rejected=0, dropped=0, failed=0) == own.stop()


def test_connection_closed_in_the_middle_of_a_request_is_tried_again():
    """Large enough that the collector has gone while it is being written."""
    names = [f"{number}" + "x" * 50_000 for number in range(20)]
    with (
        http_collector(HANG_UP_EARLY, HANG_UP_EARLY, HANG_UP_EARLY, OK) as collector,
        sending(settings(collector.endpoint)) as own,
    ):
        own.put(*names)
        wait_until(lambda: own.sender.counts().exported == 20, "delivery")

        assert names == collector.names()


def test_answer_without_end_is_given_up_after_the_timeout():
    """The time-out is for the whole export, not for each byte of it."""
    with http_collector(TRICKLE, OK) as collector, sending(settings(collector.endpoint, timeout_ms=300)) as own:
        own.put("a")
        wait_until(lambda: own.sender.counts().exported == 1, "delivery")

        names = collector.names()  # on a busy machine the next answer may be late, too
        assert ["a"] * max(2, len(names)) == names
        assert "no answer in time" in own.messages[0]


def test_long_retry_after_keeps_the_spans_and_does_not_hold_up_the_end():
    """429 for an hour: one request, then silence; at the end the spans are counted as failed."""
    with http_collector(answer("429 x", Retry_After=3600)) as collector, sending(settings(collector.endpoint)) as own:
        own.put("a", "b")
        wait_until(lambda: own.messages, "the complaint")
        own.put("c")
        began = time.monotonic()

        assert SendCounts(exported=0, rejected=0, dropped=0, failed=3) == own.stop(0.5)
        assert time.monotonic() - began < 60  # and not the hour
        assert 2 >= len(collector.received), "the second is the last try, at the end"


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
def test_every_kind_of_redirect_is_a_failure(status: str):
    with http_collector() as elsewhere:
        moved = answer(status, Location=elsewhere.endpoint)
        with http_collector(moved, OK) as collector, sending(settings(collector.endpoint)) as own:
            own.put("a")
            wait_until(lambda: own.sender.counts().exported == 1, "delivery")

            assert ["a", "a"] == collector.names()
            assert [] == elsewhere.received


def test_queue_can_be_bounded_in_spans_too():
    """OTEL_BSP_MAX_QUEUE_SIZE; a batch that is never full then still leaves."""
    with (
        http_collector() as collector,
        sending(settings(collector.endpoint), is_started=False, queue_spans=2, batch_spans=100) as own,
    ):
        own.put("a", "b", "c")
        own.sender.start()
        wait_until(lambda: own.sender.counts().exported == 2, "delivery")

        assert ["b", "c"] == collector.names()
        assert SendCounts(exported=2, rejected=0, dropped=1, failed=0) == own.stop()


def test_plain_http_goes_through_the_proxy():
    """HTTP_PROXY: the whole URL in the request line, the proxy's credentials for the proxy."""
    with http_collector() as collector, forward_proxy() as proxy:
        behind = settings(
            f"http://collector.invalid:{collector.port}/v1/traces", proxy=f"http://user:pw@127.0.0.1:{proxy.port}"
        )
        with sending(behind) as own:
            own.put("a")

            assert SendCounts(exported=1, rejected=0, dropped=0, failed=0) == own.stop()
        assert proxy.heads[0].startswith(f"POST http://collector.invalid:{collector.port}/v1/traces ".encode())
        assert b"proxy-authorization: basic dxnlcjpwdw==" in proxy.heads[0].lower()


def test_https_goes_through_a_tunnel(tmp_path):  # type: ignore[no-untyped-def]
    """HTTPS_PROXY: CONNECT, then TLS with the collector itself."""
    made = make_certificates(tmp_path)
    with http_collector(tls=made.server_context()) as collector, forward_proxy() as proxy:
        behind = settings(
            f"https://localhost:{collector.port}/v1/traces",
            certificate=made.authority,
            client_certificate=made.certificate,
            client_key=made.key,
            proxy=f"http://127.0.0.1:{proxy.port}",
        )
        with sending(behind) as own:
            own.put("a")

            assert SendCounts(exported=1, rejected=0, dropped=0, failed=0) == own.stop()
        assert proxy.heads[0].startswith(b"CONNECT localhost:")


def test_grpc_goes_through_a_tunnel():
    with grpc_collector() as collector, forward_proxy() as proxy:
        behind = settings(
            f"http://collector.invalid:{collector.port}",
            protocol="grpc",
            proxy=f"http://user:pw@127.0.0.1:{proxy.port}",
        )
        with sending(behind) as own:
            own.put("a")
            wait_until(lambda: own.sender.counts().exported == 1, "delivery")

        assert b"Basic dXNlcjpwdw==" in proxy.heads[0]


def test_proxy_that_is_down_is_a_failure_like_any_other_and_its_password_is_shown_nowhere():
    with http_collector() as collector:
        behind = settings(collector.endpoint, proxy="http://user:hunter2@127.0.0.1:1")
        with sending(behind) as own:
            own.put("a")
            wait_until(lambda: own.messages, "the complaint")

            assert "hunter2" not in own.messages[0]
            assert "Connection refused" in own.messages[0]
            assert [] == collector.received
