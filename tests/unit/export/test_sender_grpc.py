"""The sender against gRPC collectors that behave, and that do not."""

import socket
import time

import grpc
import pytest

from otel_ebpf.export import sender as sender_module
from otel_ebpf.export.sender import SendCounts
from tests.unit.export.collectors import (
    HANG_UP,
    accepting,
    answer,
    failing,
    free_port,
    grpc_collector,
    http2_collector,
    partial,
    retry_info,
    settings,
    stall,
    take,
    wait_until,
)
from tests.unit.export.sending import Sending, sending


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 0.05)


def over_grpc(endpoint: str, **changes: object):  # type: ignore[no-untyped-def]
    return settings(endpoint, protocol="grpc", **changes)


def wait_for_delivery(own: Sending, count: int) -> None:
    wait_until(lambda: own.sender.counts().exported == count, "delivery")


def test_spans_arrive_with_metadata():
    """OTLP/gRPC, headers as metadata."""
    with grpc_collector() as collector, sending(over_grpc(collector.endpoint, headers=(("x-key", "s"),))) as own:
        own.put("a", "b")
        wait_for_delivery(own, 2)
        own.put("c")

        assert SendCounts(3, 0, 0, 0) == own.stop()
        assert ["a", "b", "c"] == collector.names()
        assert "s" == collector.metadata[0]["x-key"]
        assert [] == own.messages


def test_gzip_is_accepted_by_the_collector():
    with grpc_collector() as collector, sending(over_grpc(collector.endpoint, compression="gzip")) as own:
        own.put("a")
        own.stop()
        assert ["a"] == collector.names()


def test_collector_that_is_down_loses_nothing_and_is_reported_once():
    port = free_port()
    with sending(over_grpc(f"http://127.0.0.1:{port}")) as own:
        own.put("a", "b")
        wait_until(lambda: own.sender._failures_in_row > 1, "attempts")
        assert 1 == len(own.messages)
        with grpc_collector(port=port) as collector:
            wait_for_delivery(own, 2)
            assert ["a", "b"] == collector.names()
            wait_until(lambda: len(own.messages) == 2, "the all-clear")


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.DATA_LOSS,
    ],
)
def test_retryable_code_is_tried_again(code: grpc.StatusCode):
    """OTLP specification, OTLP/gRPC Response."""
    with grpc_collector(failing(code), take) as collector, sending(over_grpc(collector.endpoint)) as own:
        own.put("a")
        wait_for_delivery(own, 1)

        assert ["a", "a"] == collector.names()
        assert code.name in own.messages[0]


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED],
)
def test_other_codes_refuse_the_batch(code: grpc.StatusCode):
    """RESOURCE_EXHAUSTED is retryable only where the collector says when."""
    with grpc_collector(failing(code)) as collector, sending(over_grpc(collector.endpoint)) as own:
        own.put("a")

        assert SendCounts(exported=0, rejected=1, dropped=0, failed=0) == own.stop()
        assert ["a"] == collector.names()
        assert 1 == len(own.messages)


def test_retry_info_is_respected():
    exhausted = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=retry_info(0.7))
    with grpc_collector(exhausted, take) as collector, sending(over_grpc(collector.endpoint)) as own:
        began = time.monotonic()
        own.put("a")
        wait_for_delivery(own, 1)

        assert ["a", "a"] == collector.names()
        assert 0.7 <= time.monotonic() - began


def test_partial_success_is_counted_and_reported():
    with grpc_collector(lambda context: partial(1, "too old")) as collector:  # noqa: SIM117
        with sending(over_grpc(collector.endpoint)) as own:
            own.put("a", "b")

            assert SendCounts(exported=1, rejected=1, dropped=0, failed=0) == own.stop()
            assert "too old" in own.messages[0]


def test_stalling_collector_is_given_up_after_the_timeout():
    with grpc_collector(stall, take) as collector, sending(over_grpc(collector.endpoint, timeout_ms=200)) as own:
        own.put("a")
        wait_for_delivery(own, 1)

        names = collector.names()  # on a busy machine the next answer may be late, too
        assert ["a"] * max(2, len(names)) == names
        assert "DEADLINE_EXCEEDED" in own.messages[0]


def test_stop_keeps_its_deadline_while_a_call_hangs():
    patient = {"timeout_ms": 3_600_000}
    with grpc_collector(stall) as collector, sending(over_grpc(collector.endpoint, **patient)) as own:
        own.put("a")
        wait_until(lambda: len(collector.received) == 1, "a call in flight")
        began = time.monotonic()

        assert SendCounts(exported=0, rejected=0, dropped=0, failed=1) == own.stop(0.5)
        assert time.monotonic() - began < 30  # an attempt may take an hour


def test_connection_closed_in_the_middle_of_a_call_is_tried_again():
    """Large enough that its message is still being sent."""
    with http2_collector(HANG_UP, HANG_UP, "200") as collector, sending(over_grpc(collector.endpoint)) as own:
        own.put("a" * 50_000)
        wait_for_delivery(own, 1)

        assert collector.calls >= 3, "gRPC itself may try once more"
        assert SendCounts(1, 0, 0, 0) == own.stop()


def test_redirect_is_a_failure_and_is_not_followed():
    """gRPC knows no redirect: UNKNOWN, which OTLP forbids to send again. Counted, and told."""
    with http2_collector("302") as collector, sending(over_grpc(collector.endpoint)) as own:
        own.put("a", "b")

        assert SendCounts(exported=0, rejected=2, dropped=0, failed=0) == own.stop()
        assert 1 == collector.calls
        assert "302" in own.messages[0]


def test_server_that_speaks_no_grpc_loses_nothing():
    """The port of a web server, named by mistake: the spans wait until it is mended."""

    def redirect(connection: socket.socket) -> None:
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer("302 Found", Location="/"))

    port = free_port()
    with accepting(port, redirect), sending(over_grpc(f"http://127.0.0.1:{port}")) as own:
        own.put("a")
        wait_until(lambda: len(own.messages) == 1, "the complaint")

        assert SendCounts(exported=0, rejected=0, dropped=0, failed=1) == own.stop(0.5)


def test_construction_starts_no_thread():
    """gRPC's own threads would keep the capabilities that the process drops after it."""
    import os

    before = set(os.listdir("/proc/self/task"))
    with sending(over_grpc(f"http://127.0.0.1:{free_port()}"), is_started=False):
        assert set() == set(os.listdir("/proc/self/task")) - before


def test_own_connections_are_found():
    with grpc_collector() as collector, sending(over_grpc(collector.endpoint)) as own:
        own.put("a")
        wait_for_delivery(own, 1)
        mine = {
            port
            for address, port in own.sender.own_endpoints()
            if address == socket.inet_aton("127.0.0.1").ljust(16, b"\0")
        }

        assert mine - {collector.port}
