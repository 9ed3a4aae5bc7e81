"""Spans to OTLP bytes.

In:   SpanData, resource attributes
Out:  the bytes of an ExportTraceServiceRequest
Owns: bounded caches: a template for each thing that spans share, the framing of each attribute

Protobuf lets the fields of a message stand in any order and its parts be joined. So a span is ids and times in one
struct.pack, then the bytes that the official class made for its series once, then the attributes of its own. The
official encoder is the oracle of the tests.
"""

from collections.abc import Iterable, Mapping
from struct import Struct

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from otel_ebpf.telemetry.lookups import SpanEvent
from otel_ebpf.telemetry.spans import Series, Shared, SpanData

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE_NAME = "otel-ebpf"
TEMPLATES_LIMIT = 4096
ATTRIBUTE_KEYS_LIMIT = 256

# Wire tags: field number << 3 | wire type (0 varint, 1 fixed64, 2 bytes, 5 fixed32).
_SPAN_TRACE_STATE = b"\x1a"
_SPAN_ATTRIBUTE = b"\x4a"
_SPAN_DROPPED_ATTRIBUTES = b"\x50"
_SCOPE_SPANS_SPAN = b"\x12"
_RESOURCE_SPANS_SCOPE_SPANS = b"\x12"
_REQUEST_RESOURCE_SPANS = b"\x0a"
_KEY_VALUE_KEY = b"\x0a"
_KEY_VALUE_VALUE = b"\x12"
_ANY_STRING = b"\x0a"
_ANY_INT = b"\x18"
_ANY_ARRAY = b"\x2a"
_ARRAY_VALUE = b"\x0a"

# trace_id, span_id, start and end time, flags; the second has parent_span_id before the times. A root's parent must be
# absent: eight zero bytes would name a span.
_ROOT = Struct("<2s16s2s8scQcQ2sI")
_CHILD = Struct("<2s16s2s8s2s8scQcQ2sI")


def _varint(number: int) -> bytes:
    """Base-128, least significant group first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT_VARINTS = [_varint(number) for number in range(16384)]  # all of one and two bytes


def varint(number: int) -> bytes:
    """Of a number that is not negative."""
    if number < 16384:
        return _SHORT_VARINTS[number]
    if number < 2_097_152:
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    return _varint(number)


def framed(tag: bytes, content: bytes) -> bytes:
    """One length-delimited field."""
    return tag + varint(len(content)) + content


class AttributeFrames:
    """The bytes before the value of one attribute key, by the value's length."""

    __slots__ = ("_field", "ints", "texts")

    SHORT = 128

    def __init__(self, key: str) -> None:
        self._field = framed(_KEY_VALUE_KEY, key.encode("utf-8")) + _KEY_VALUE_VALUE
        self.texts = [self.text_frame(length) for length in range(self.SHORT)]
        self.ints = [self._frame(1 + length, _ANY_INT) for length in range(11)]

    def text_frame(self, length: int) -> bytes:
        prefix = varint(length)
        return self._frame(1 + len(prefix) + length, _ANY_STRING + prefix)

    def array(self, texts: Iterable[bytes]) -> bytes:
        """All of an attribute whose value is an array."""
        values = b"".join(framed(_ARRAY_VALUE, framed(_ANY_STRING, text)) for text in texts)
        prefix = varint(len(values))
        return self._frame(1 + len(prefix) + len(values), _ANY_ARRAY + prefix) + values

    def _frame(self, any_value_length: int, begin: bytes) -> bytes:
        inner = varint(any_value_length)
        outer = varint(len(self._field) + len(inner) + any_value_length)
        return _SPAN_ATTRIBUTE + outer + self._field + inner + begin


class SpanEncoder:
    """Encodes spans; one for each sender, not for several threads at once."""

    def __init__(self) -> None:
        self._templates: dict[Shared, bytes] = {}
        self._frames: dict[str, AttributeFrames] = {}

    def encode_span(self, span: SpanData) -> bytes:
        """One span as a field of ScopeSpans, so that a batch is their concatenation."""
        (
            series, trace_id, span_id, parent, trace_state, flags, start_ns, end_ns, attributes, dropped, _, shared, events
        ) = span  # fmt: skip
        templates = self._templates
        template = templates.get(series) or self._remember_template(series)
        if parent:
            head = _CHILD.pack(
                b"\x0a\x10", trace_id, b"\x12\x08", span_id, b"\x22\x08", parent,
                b"\x39", start_ns, b"\x41", end_ns, b"\x85\x01", flags,
            )  # fmt: skip
        else:
            head = _ROOT.pack(
                b"\x0a\x10", trace_id, b"\x12\x08", span_id,
                b"\x39", start_ns, b"\x41", end_ns, b"\x85\x01", flags,
            )  # fmt: skip
        parts = [head, template]
        for part in shared:
            parts.append(templates.get(part) or self._remember_template(part))
        all_frames = self._frames
        for key, value in attributes:
            frames = all_frames.get(key) or self._remember_frames(key)
            if isinstance(value, int):
                number = varint(value if value >= 0 else value & 0xFFFFFFFFFFFFFFFF)
                parts.append(frames.ints[len(number)])
                parts.append(number)
            elif isinstance(value, tuple):
                parts.append(frames.array(value))
            else:
                length = len(value)
                parts.append(frames.texts[length] if length < 128 else frames.text_frame(length))
                parts.append(value)
        if trace_state:
            parts.append(framed(_SPAN_TRACE_STATE, trace_state))
        if dropped:
            parts.append(_SPAN_DROPPED_ATTRIBUTES + varint(dropped))
        if events:
            parts.append(encode_events(events))
        body = b"".join(parts)
        return _SCOPE_SPANS_SPAN + varint(len(body)) + body

    def _remember_template(self, shared: Shared) -> bytes:
        if len(self._templates) >= TEMPLATES_LIMIT:
            self._templates.clear()
        found = self._templates[shared] = template_of(shared)
        return found

    def _remember_frames(self, key: str) -> AttributeFrames:
        if len(self._frames) >= ATTRIBUTE_KEYS_LIMIT:
            self._frames.clear()
        found = self._frames[key] = AttributeFrames(key)
        return found


def template_of(shared: Shared) -> bytes:
    """What is constant of a span, by the official class."""
    template = Span(attributes=[key_value(key, value) for key, value in shared.attributes])
    if isinstance(shared, Series):
        template.name = shared.name.decode("utf-8")
        template.kind = shared.kind  # type: ignore[assignment]  # the numbers of SpanKind, see exchanges.Role
        if shared.is_error:
            template.status.code = Status.STATUS_CODE_ERROR
    encoded: bytes = template.SerializeToString()
    return encoded


def encode_events(events: Iterable[SpanEvent]) -> bytes:
    """Few spans have any: by the official class."""
    made = (
        Span.Event(
            time_unix_nano=event.unix_ns,
            name=event.name.decode("utf-8"),
            attributes=[key_value(key, value) for key, value in event.attributes],
        )
        for event in events
    )
    encoded: bytes = Span(events=made).SerializeToString()
    return encoded


def key_value(key: str, value: bytes | str | float | tuple[bytes, ...]) -> KeyValue:
    """An attribute as the official class; bytes are UTF-8 text."""
    return KeyValue(key=key, value=_any_value(value))


def _any_value(value: bytes | str | float | tuple[bytes, ...]) -> AnyValue:
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, tuple):
        return AnyValue(array_value=ArrayValue(values=map(_any_value, value)))
    return AnyValue(string_value=value.decode("utf-8") if isinstance(value, bytes) else value)


def encode_resource(attributes: Mapping[str, str | int]) -> bytes:
    """A ResourceSpans without its spans; made once a service, spans are grouped by it."""
    resource = Resource(attributes=[key_value(key, value) for key, value in sorted(attributes.items())])
    encoded: bytes = ResourceSpans(resource=resource, schema_url=SCHEMA_URL).SerializeToString()
    return encoded


def encode_scope(version: str) -> bytes:
    """A ScopeSpans without its spans: who made them."""
    scope = InstrumentationScope(name=SCOPE_NAME, version=version)
    encoded: bytes = ScopeSpans(scope=scope, schema_url=SCHEMA_URL).SerializeToString()
    return encoded


def encode_batch(groups: Iterable[tuple[bytes, list[bytes]]], scope: bytes) -> bytes:
    """An ExportTraceServiceRequest of (`encode_resource`, [`encode_span`, ...]) groups."""
    request = []
    for resource, spans in groups:
        scope_spans = scope + b"".join(spans)
        request.append(framed(_REQUEST_RESOURCE_SPANS, resource + framed(_RESOURCE_SPANS_SCOPE_SPANS, scope_spans)))
    return b"".join(request)


def split_request(request: bytes, first_spans: int) -> tuple[bytes, bytes]:
    """The first spans of an ExportTraceServiceRequest, and the others, each with its resource and scope."""
    whole = ExportTraceServiceRequest.FromString(request)
    parts = ExportTraceServiceRequest(), ExportTraceServiceRequest()
    seen = 0
    for group in whole.resource_spans:
        for scope in group.scope_spans:
            cut = min(max(first_spans - seen, 0), len(scope.spans))
            seen += len(scope.spans)
            for part, spans in zip(parts, (scope.spans[:cut], scope.spans[cut:]), strict=True):
                if spans:
                    added = part.resource_spans.add(resource=group.resource, schema_url=group.schema_url)
                    added.scope_spans.add(scope=scope.scope, schema_url=scope.schema_url, spans=spans)
    first, second = parts
    return first.SerializeToString(), second.SerializeToString()
