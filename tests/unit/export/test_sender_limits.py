"""Requests that are too large for the collector, over HTTP and gRPC, and batches that are cut for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.export import sender as sender_module
from otel_ebpf.export.otlp import encode_batch, encode_resource, encode_scope, split_request
from otel_ebpf.export.sender import SendCounts
from tests.unit.export.collectors import (
    HANG_UP,
    OK,
    answer,
    at_most,
    grpc_collector,
    http_collector,
    settings,
    span_names,
    wait_until,
)
from tests.unit.export.sending import encoded, sending

GIANT = "g" * 20_000
NAMES = [f"n{number}" for number in range(40)]


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 0.05)


def test_batch_that_is_too_large_is_sent_in_halves():
    """413 (RFC 9110 15.5.14): nothing is lost, nothing comes twice, the order stays."""
    limit = 10 * len(encoded("n0"))
    with http_collector(at_most(limit)) as collector, sending(settings(collector.endpoint)) as own:
        own.put(*NAMES)

        assert SendCounts(exported=40, rejected=0, dropped=0, failed=0) == own.stop()
        taken = [name for request in collector.received if len(request.body) <= limit for name in request.names()]
        assert NAMES == taken
        assert [] == own.messages


def test_next_batches_are_smaller_at_once():
    """A limit that is known is not tried again with each batch."""
    limit = 10 * len(encoded("n0"))
    with http_collector(at_most(limit)) as collector, sending(settings(collector.endpoint)) as own:
        for number in range(3):
            own.put(*NAMES)
            wait_until(lambda wanted=number + 1: own.sender.counts().exported == 40 * wanted, "delivery")
            refused = [request for request in collector.received if len(request.body) > limit]
            assert number or refused
            collector.received.clear()

    assert [] == refused


def test_single_span_that_is_too_large_is_rejected_and_the_others_arrive():
    with http_collector(at_most(15_000)) as collector, sending(settings(collector.endpoint)) as own:
        own.put("a", "b", GIANT, "c")

        assert SendCounts(exported=3, rejected=1, dropped=0, failed=0) == own.stop()
        taken = [name for request in collector.received if len(request.body) <= 15_000 for name in request.names()]
        assert ["a", "b", "c"] == taken
        assert "413" in own.messages[0]


def test_collector_for_which_everything_is_too_large_is_not_flooded(monkeypatch: pytest.MonkeyPatch):
    """Each span is refused alone; then the back-off holds, as for a collector that takes nothing."""
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 60.0)
    with http_collector(answer("413 x")) as collector, sending(settings(collector.endpoint)) as own:
        own.put(*NAMES[:8])
        wait_until(lambda: own.sender.counts().rejected == 8, "refusal of each span")
        own.put("later")
        own.stop(0.2)

    assert 8 + 4 + 2 + 1 == len([request for request in collector.received if request.names() != ["later"]])


@pytest.mark.parametrize("then", [HANG_UP, answer("503 x")])
def test_what_is_left_of_a_batch_in_halves_is_sent_again_and_no_more(then: bytes | str):
    """The first half was taken, the collector fails in the second."""
    answers = [answer("413 x"), OK, then, then, OK]
    with http_collector(*answers) as collector, sending(settings(collector.endpoint)) as own:
        own.put("a", "b", "c", "d")
        wait_until(lambda: own.sender.counts().exported == 4, "delivery")

        assert ["a", "b"] == collector.received[1].names()
        assert ["c", "d"] == collector.received[-1].names()
        assert SendCounts(exported=4, rejected=0, dropped=0, failed=0) == own.stop()


def test_grpc_server_that_refuses_large_messages_gets_smaller_ones():
    """A real server with grpc.max_receive_message_length; its answer is RESOURCE_EXHAUSTED without RetryInfo."""
    with grpc_collector(most_bytes=15_000) as collector:  # noqa: SIM117
        with sending(settings(collector.endpoint, protocol="grpc")) as own:
            own.put(*NAMES, GIANT)

            assert SendCounts(exported=40, rejected=1, dropped=0, failed=0) == own.stop()
            assert NAMES == collector.names()
            assert "larger than max" in own.messages[0]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.data())
def test_both_parts_of_a_request_hold_all_its_spans_with_their_resources(resources: list[int], data: st.DataObject):
    """Whatever the cut; the official class reads both."""
    groups: dict[bytes, list[bytes]] = {}
    for number, resource in enumerate(resources):
        groups.setdefault(encode_resource({"service.name": f"s{resource}"}), []).append(encoded(f"n{number}"))
    request = encode_batch(groups.items(), encode_scope("1"))
    cut = data.draw(st.integers(0, len(resources)))

    parts = [ExportTraceServiceRequest.FromString(part) for part in split_request(request, cut)]

    whole = ExportTraceServiceRequest.FromString(request)
    assert [cut, len(resources) - cut] == [len(span_names(part)) for part in parts]
    assert span_names(whole) == span_names(parts[0]) + span_names(parts[1])
    assert described(whole) == {**described(parts[0]), **described(parts[1])}


def described(request: ExportTraceServiceRequest) -> dict[str, tuple[str, str]]:
    """By span: its resource and its scope."""
    return {
        span.name: (str(group.resource) + group.schema_url, str(scope.scope) + scope.schema_url)
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    }
