"""What spans of the captures say: where exchanges alone do not show it."""

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.exchanges.exchange import Role
from tests.captures.replaying import CAPTURES, replay
from tests.end_to_end.sink import CLIENT, SERVER, Span, spans_of
from tests.kernel.test_heads import TRACEPARENT

STATUS, ERROR = "http.response.status_code", "error.type"
METHOD, ORIGINAL = "http.request.method", "http.request.method_original"
KINDS = {SERVER: Role.SERVER, CLIENT: Role.CLIENT}


def recording_of(capture: str) -> bytes:
    return (CAPTURES / f"{capture}.recording").read_bytes()


def last_span(capture: str, role: Role) -> Span:
    spans = spans_of(ExportTraceServiceRequest.FromString(replay(recording_of(capture))[2]))
    return [span for span in spans if KINDS[span.kind] is role][-1]


@pytest.mark.parametrize(
    ("capture", "role", "error_type"),
    [
        ("client_leaves", Role.SERVER, "client_closed"),
        ("client_leaves", Role.CLIENT, "client_closed"),
        ("server_closes_without_a_word", Role.SERVER, "server_closed"),
        ("server_closes_without_a_word", Role.CLIENT, "server_closed"),
        ("reset_without_a_word", Role.CLIENT, "reset"),
        ("half_a_head_then_the_end", Role.SERVER, "server_closed"),
        ("half_a_body_then_the_end", Role.SERVER, "server_closed"),
        ("descriptors_used_again", Role.SERVER, "client_closed"),
        ("client_times_out", Role.CLIENT, "timeout"),
    ],
)
def test_where_the_wire_shows_no_response_there_is_no_status(capture: str, role: Role, error_type: str):
    """`error.type` says what was seen instead."""
    found = last_span(capture, role).attributes

    assert STATUS not in found
    assert error_type == found[ERROR]


@pytest.mark.parametrize(
    ("capture", "role", "error_type"),
    [
        ("server_closes_in_mid_response", Role.SERVER, "server_closed"),
        ("chunks_that_break_off", Role.CLIENT, "server_closed"),
        ("reset_in_mid_response", Role.CLIENT, "reset"),
        ("server_times_out", Role.SERVER, "timeout"),
    ],
)
def test_a_response_that_broke_off_has_its_status_and_says_why(capture: str, role: Role, error_type: str):
    found = last_span(capture, role).attributes

    assert (200, error_type) == (found[STATUS], found[ERROR])


@pytest.mark.parametrize("capture", ["client_leaves_in_mid_response", "client_leaves_a_stream"])
@pytest.mark.parametrize("role", list(Role))
def test_a_client_that_has_enough_of_a_response_is_no_error(capture: str, role: Role):
    found = last_span(capture, role).attributes

    assert 200 == found[STATUS]
    assert ERROR not in found


@pytest.mark.parametrize("role", list(Role))
def test_an_unknown_method_is_other_and_stands_beside(role: Role):
    found = last_span("unknown_method", role).attributes

    assert ("_OTHER", "PURGE") == (found[METHOD], found[ORIGINAL])


@pytest.mark.parametrize("role", list(Role))
def test_a_path_is_reported_to_its_bound_and_marked(role: Role):
    whole, cut = last_span("path_of_8_000_bytes", role), last_span("a_path_that_is_longer_than_reported", role)
    name = "url.path" if role is Role.SERVER else "url.full"

    assert "otel_ebpf.truncated" not in whole.attributes
    assert name in cut.attributes["otel_ebpf.truncated"]
    assert 8192 == len(cut.attributes[name])


@pytest.mark.parametrize("role", list(Role))
def test_the_traceparent_at_the_end_of_a_long_head_is_the_parent(role: Role):
    _, trace_id, span_id, _ = TRACEPARENT.decode().split("-")
    span = last_span("head_of_64_kilobytes", role)

    assert (trace_id, span_id) == (span.trace_id.hex(), span.parent_span_id.hex())


def test_first_and_last_byte_of_a_stream_are_kept_apart():
    for exchange in replay(recording_of("server_sent_events"))[1]:
        assert exchange.response_start_ns is not None
        assert exchange.response_end_ns is not None
        assert exchange.response_start_ns < exchange.response_end_ns == exchange.end_ns


def test_a_stream_that_is_still_open_is_counted_and_given_no_end():
    played, exchanges, _ = replay(recording_of("stream_left_open"))

    assert [] == exchanges
    assert 2 == played.pipeline.assembler.losses["open at the end"]
