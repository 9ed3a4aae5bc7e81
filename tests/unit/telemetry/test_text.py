"""Bytes of the wire to valid, bounded UTF-8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.telemetry.text import cut_characters, utf8


@given(st.binary(max_size=60), st.integers(0, 70))
def test_result_is_always_valid_and_within_the_bound(raw: bytes, limit: int):
    found = utf8(raw, limit)

    found.decode("utf-8")
    assert len(found) <= limit


@given(st.text(max_size=40), st.integers(0, 200))
def test_cut_of_valid_text_is_its_beginning(text: str, limit: int):
    """A cut falls between characters, and takes away no more than one that did not fit."""
    raw = text.encode()
    found = utf8(raw, limit)

    assert raw.startswith(found)
    assert len(found) >= min(len(raw), limit) - 3


def test_wrong_bytes_become_the_replacement_character():
    assert "/a\ufffd\ufffdb".encode() == utf8(b"/a\xff\xfeb", 100)


@pytest.mark.parametrize("text", ["é", "€", "😀"])
def test_character_cut_by_the_bound_is_left_out(text: str):
    raw = b"ab" + text.encode()
    assert b"ab" == utf8(raw, len(raw) - 1)


def test_characters_are_counted_not_bytes():
    """OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT counts characters."""
    assert "éé".encode() == cut_characters("ééé".encode(), 2)
    assert b"" == cut_characters(b"abc", 0)
