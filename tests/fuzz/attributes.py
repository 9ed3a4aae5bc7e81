"""Spans of any exchange: text is valid UTF-8 within its bound, secrets in queries are gone, lines are harmless."""

import json

from otel_ebpf.exchanges.exchange import Exchange, Inferred, Outcome, Role, Unknown
from otel_ebpf.export.console import Printed, json_line, text_line
from otel_ebpf.telemetry.attributes import is_secret_key, redact_query, split_target
from otel_ebpf.telemetry.evidence import evidence_of
from otel_ebpf.telemetry.places import Places
from otel_ebpf.telemetry.route_patterns import RoutePatterns
from otel_ebpf.telemetry.routes import RouteTable
from otel_ebpf.telemetry.spans import CACHE_LIMIT, MOST_ATTRIBUTES, URL_LIMIT_BYTES, SpanBuilder
from otel_ebpf.telemetry.trace_context import IdSource
from tests.fuzz.choices import Choices

_ENDS = (
    Inferred.RESPONSE_END_BY_CLOSE,
    Inferred.RESPONSE_END_BY_LAST_CHUNK,
    Inferred.RESPONSE_END_BY_NEXT_REQUEST,
)
_INFERRED = [flag for flag in Inferred if flag not in _ENDS]
_PLACES = Places(IdSource(b"seed"))
_BUILDER = SpanBuilder(shows_evidence=True)


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    exchange = _exchange(choices)
    routes = RouteTable(RoutePatterns((("", "/users/{id}"),), "service"))
    route = routes.route_of(exchange)
    span = _BUILDER.build(exchange, _PLACES.of(exchange), 0, route, evidence_of(exchange, route, routes))
    attributes = span.all_attributes
    assert len({name for name, _ in attributes}) == len(attributes) <= MOST_ATTRIBUTES
    for name, value in attributes:
        if isinstance(value, bytes):
            value.decode("utf-8", "strict")
            assert len(value) <= URL_LIMIT_BYTES, name
        else:
            assert 0 <= value < 2**63, name
    span.series.name.decode("utf-8", "strict")
    assert (len(span.trace_id), len(span.span_id)) == (16, 8)
    assert span.start_unix_ns <= span.end_unix_ns
    assert len(_BUILDER._series) <= CACHE_LIMIT
    printed = Printed(exchange, span, "service")
    assert text_line(printed, is_coloured=False).removesuffix("\n").isprintable()
    line = json_line(printed)
    assert line.removesuffix("\n").isprintable()
    assert json.loads(line)["span_id"] == span.span_id.hex()
    _check_redaction(split_target(exchange.method, exchange.target).query)


def _check_redaction(query: bytes | None) -> None:
    if query is None:
        return
    redacted = redact_query(query)
    assert redacted == redact_query(redacted)
    for pair in redacted.replace(b";", b"&").split(b"&"):
        name, _, value = pair.partition(b"=")
        assert not value or value == b"REDACTED" or not is_secret_key(name)
    assert [pair.partition(b"=")[0] for pair in query.split(b"&")] == [
        pair.partition(b"=")[0] for pair in redacted.split(b"&")
    ] or b";" in query


def _exchange(choices: Choices) -> Exchange:
    times = sorted(choices.number(4) for _ in range(4))
    family = choices.one_of([1, 2, 10])
    outcome = choices.one_of(list(Outcome))
    inferred = choices.one_of(_INFERRED) | choices.one_of([*_ENDS, Inferred.NOTHING])
    if outcome is not Outcome.COMPLETE:
        inferred &= ~(_ENDS[0] | _ENDS[1] | _ENDS[2])
    return Exchange(
        connection=choices.number(4),
        position=choices.number(2),
        pid=1,
        tid=1,
        service_pid=1,
        role=choices.one_of(list(Role)),
        family=family,
        local_address=choices.take(16).ljust(16, b"\0"),
        local_port=choices.number(2),
        remote_address=choices.take(16).ljust(16, b"\0"),
        remote_port=choices.number(2),
        method=choices.one_of([b"GET", b"CONNECT", b"OPTIONS", b"get", b"X" * 64]),
        version=choices.one_of([b"1.1", b"1.0", b""]),
        status=choices.one_of([None, 200, 404, 500, 999]),
        request_start_ns=times[0],
        request_end_ns=times[1],
        response_start_ns=times[2],
        response_end_ns=times[3],
        end_ns=times[3],
        request_bytes=1,
        response_bytes=1,
        request_body_bytes=choices.one_of([None, 0, 2**62]),
        response_body_bytes=choices.one_of([None, 0, 2**62]),
        outcome=outcome,
        unknown=Unknown.NOTHING,
        inferred=inferred,
        host=choices.some_bytes() or None,
        user_agent=choices.some_bytes() or None,
        forwarded_for=choices.some_bytes() or None,
        traceparent=choices.some_bytes() or None,
        tracestate=choices.some_bytes() or None,
        target=bytes(byte for byte in choices.rest() if byte not in b" \r\n") or b"/",
    )
