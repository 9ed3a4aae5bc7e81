"""Bytes to text: valid UTF-8 within the bound, unchanged where it was that already."""

from otel_ebpf.telemetry.text import cut_characters, utf8
from tests.fuzz.choices import Choices


def fuzz(data: bytes) -> None:
    choices = Choices(data)
    limit = choices.number(2) % 300
    raw = choices.rest()
    valid = utf8(raw, limit)
    text = valid.decode("utf-8", "strict")
    assert len(valid) <= limit
    assert valid == utf8(valid, limit)
    if len(raw) <= limit and raw == raw.decode("utf-8", "replace").encode():
        assert raw == valid
    for characters in (0, 1, limit):
        assert text[:characters] == cut_characters(valid, characters).decode("utf-8", "strict")
