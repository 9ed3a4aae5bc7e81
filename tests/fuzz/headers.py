"""Captured headers of any block of lines: text within its bounds, and no value of a header that holds credentials."""

from dataclasses import replace

from otel_ebpf.exchanges.http1 import parse_response_head
from otel_ebpf.exchanges.line_mask import mask_line
from otel_ebpf.telemetry.headers import MAX_VALUES, VALUE_LIMIT_BYTES, HeaderRules, Headers
from tests.unit.telemetry.examples import EXCHANGE

_SHOWN = HeaderRules(("referer", "x-tag", "cookie"), ("location", "set-cookie"))
_HEADERS = Headers(_SHOWN)
_SECRET = ("http.request.header.cookie", "http.response.header.set-cookie")
_STATUS_LINE = b"HTTP/1.1 200 OK\r\n"


def fuzz(data: bytes) -> None:
    head = parse_response_head(_STATUS_LINE + data, is_cut=True)
    assert head is not None
    assert head.headers in data
    found = _HEADERS.of(replace(EXCHANGE, request_headers=head.headers, response_headers=head.headers))
    for key, values in found.attributes:
        assert 0 < len(values) <= MAX_VALUES
        for value in values:
            value.decode("utf-8", "strict")
            assert len(value) <= VALUE_LIMIT_BYTES
            assert b"\n" not in value
            assert value == b"REDACTED" or key not in _SECRET
    for line in head.headers.splitlines(keepends=True):
        masked = mask_line(line, False, _SHOWN.shown)
        assert len(masked) == len(line)
        assert masked == mask_line(masked, False, _SHOWN.shown)
