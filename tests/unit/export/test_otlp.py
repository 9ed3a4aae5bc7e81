"""The fast encoder, held against the official classes."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from otel_ebpf.export.otlp import (
    ATTRIBUTE_KEYS_LIMIT,
    SCHEMA_URL,
    TEMPLATES_LIMIT,
    SpanEncoder,
    encode_batch,
    encode_resource,
    encode_scope,
    varint,
)
from otel_ebpf.telemetry.lookups import SpanEvent
from otel_ebpf.telemetry.spans import Series, Shared, SpanData
from tests.unit.telemetry.examples import client_exchange, exchange, span_of

UTF8 = st.text(max_size=200).map(str.encode) | st.sampled_from(
    [b"", b"x" * 127, b"x" * 128, b"x" * 16_384, b"x" * 70_000]
)
VALUES = (
    UTF8
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([0, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**32])
    | st.lists(UTF8, max_size=4).map(tuple)
)
ATTRIBUTES = st.lists(st.tuples(st.text(max_size=20) | st.just("k" * 300), VALUES), max_size=8).map(tuple)
EVENTS = st.builds(
    SpanEvent,
    unix_ns=st.integers(0, 2**64 - 1),
    name=UTF8,
    attributes=st.lists(
        st.tuples(st.text(max_size=20), UTF8 | st.floats(allow_nan=False) | st.lists(UTF8, max_size=4).map(tuple))
    ).map(tuple),
)
SPANS = st.builds(
    SpanData,
    series=st.builds(Series, UTF8, st.sampled_from([2, 3]), st.booleans(), ATTRIBUTES),
    trace_id=st.binary(min_size=16, max_size=16),
    span_id=st.binary(min_size=8, max_size=8),
    parent_span_id=st.just(b"") | st.binary(min_size=8, max_size=8),
    trace_state=st.just(b"") | st.just(b"a=1,b=2") | st.just(b"a=" + b"x" * 256),
    flags=st.integers(0, 0x3FF),
    start_unix_ns=st.integers(0, 2**64 - 1),
    end_unix_ns=st.integers(0, 2**64 - 1),
    attributes=ATTRIBUTES,
    dropped_attributes_count=st.integers(0, 300),
    shared=st.lists(st.builds(Shared, ATTRIBUTES), max_size=3).map(tuple),
    events=st.lists(EVENTS, max_size=2).map(tuple),
)


def official_attribute(key: str, value: bytes | float | tuple[bytes, ...]) -> KeyValue:
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    if isinstance(value, tuple):
        texts = [AnyValue(string_value=text.decode()) for text in value]
        return KeyValue(key=key, value=AnyValue(array_value=ArrayValue(values=texts)))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    return KeyValue(key=key, value=AnyValue(string_value=value.decode()))


def official(span: SpanData) -> Span:
    """The same span, built field by field."""
    return Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        trace_state=span.trace_state.decode(),
        flags=span.flags,
        name=span.series.name.decode(),
        kind=span.series.kind,
        start_time_unix_nano=span.start_unix_ns,
        end_time_unix_nano=span.end_unix_ns,
        attributes=[official_attribute(*pair) for pair in span.all_attributes],
        dropped_attributes_count=span.dropped_attributes_count,
        status=Status(code=Status.STATUS_CODE_ERROR) if span.series.is_error else None,
        events=[
            Span.Event(
                time_unix_nano=event.unix_ns,
                name=event.name.decode(),
                attributes=[official_attribute(*pair) for pair in event.attributes],
            )
            for event in span.events
        ],
    )


def parsed(*encoded: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(encode_batch([(b"", list(encoded))], b""))
    return list(request.resource_spans[0].scope_spans[0].spans)


@given(st.lists(SPANS, max_size=5))
def test_bytes_are_those_of_the_official_message(spans: list[SpanData]):
    """Whatever the text, the numbers and the keys."""
    encoder = SpanEncoder()
    encoded = [encoder.encode_span(span) for span in spans]
    resource = {"service.name": "shop", "process.pid": 7}
    batch = encode_batch([(encode_resource(resource), encoded)], encode_scope("1.2"))
    wanted = ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(
                    attributes=[official_attribute("process.pid", 7), official_attribute("service.name", b"shop")]
                ),
                schema_url=SCHEMA_URL,
                scope_spans=[
                    ScopeSpans(
                        scope=InstrumentationScope(name="otel-ebpf", version="1.2"),
                        schema_url=SCHEMA_URL,
                        spans=[official(span) for span in spans],
                    )
                ],
            )
        ]
    )  # fmt: skip

    assert wanted == ExportTraceServiceRequest.FromString(batch)


def test_exchanges_come_through_whole():
    encoder = SpanEncoder()
    spans = [span_of(exchange()), span_of(client_exchange(status=None, target=b"/\xff\xfe")), span_of(exchange())]

    encoded = [encoder.encode_span(span) for span in spans]

    assert [official(span) for span in spans] == parsed(*encoded)
    assert [official(span).ByteSize() for span in spans] == [len(span) - 3 for span in encoded]  # tag and length


def test_root_has_no_parent_rather_than_one_of_zeroes():
    """OTLP: an empty parent_span_id is a root span."""
    (span,) = parsed(SpanEncoder().encode_span(span_of(exchange())))

    assert b"" == span.parent_span_id


def test_resources_stay_apart():
    encoder = SpanEncoder()
    shop, cart = (encode_resource({"service.name": name}) for name in ("shop", "cart"))
    one = encoder.encode_span(span_of(exchange()))

    request = ExportTraceServiceRequest.FromString(encode_batch([(shop, [one]), (cart, [one, one])], encode_scope("1")))

    assert [("shop", 1), ("cart", 2)] == [
        (group.resource.attributes[0].value.string_value, len(group.scope_spans[0].spans))
        for group in request.resource_spans
    ]


def test_varints_have_seven_bits_a_byte():
    """Protocol Buffers encoding, Base 128 Varints."""
    assert (b"\x00", b"\x7f", b"\x80\x01", b"\x96\x01", b"\xff" * 9 + b"\x01") == (
        varint(0), varint(127), varint(128), varint(150), varint(2**64 - 1),
    )  # fmt: skip


def test_caches_are_bounded():
    encoder = SpanEncoder()
    template = span_of(exchange())
    for number in range(TEMPLATES_LIMIT + 5):
        encoder.encode_span(template._replace(series=Series(b"GET", 2, False, ()), attributes=()))
        if number < ATTRIBUTE_KEYS_LIMIT + 5:
            encoder.encode_span(template._replace(attributes=((f"k{number}", 1),)))

    assert len(encoder._templates) <= TEMPLATES_LIMIT
    assert len(encoder._frames) <= ATTRIBUTE_KEYS_LIMIT
