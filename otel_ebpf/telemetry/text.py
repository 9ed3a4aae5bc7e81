"""Bytes of the wire to text that OTLP accepts.

In:   bytes that anybody may have sent
Out:  bytes that are valid UTF-8, bounded
Owns: nothing

One string that is not UTF-8 makes a strict protobuf parser refuse its whole batch, so nothing leaves without this.
"""


def utf8(raw: bytes, limit_bytes: int) -> bytes:
    """`raw` as valid UTF-8 of at most `limit_bytes`; wrong bytes become U+FFFD, a cut falls between characters."""
    if len(raw) <= limit_bytes and raw.isascii():
        return raw
    cut = raw[:limit_bytes]
    if len(raw) > limit_bytes:
        cut = _without_partial_character(cut)
    if cut.isascii():
        return cut
    # A wrong byte grows to the three of U+FFFD, so the bound is checked again.
    valid = cut.decode("utf-8", "replace").encode("utf-8")
    if len(valid) <= limit_bytes:
        return valid
    return valid[:limit_bytes].decode("utf-8", "ignore").encode("utf-8")


def exceeds(raw: bytes, limit_bytes: int) -> bool:
    """Does `utf8` cut it?"""
    return len(raw) > limit_bytes or len(raw.decode("utf-8", "replace").encode("utf-8")) > limit_bytes


def _without_partial_character(cut: bytes) -> bytes:
    """Drops a character at the end that our own cut split; three bytes of look-back reach any lead byte."""
    for back in range(1, min(4, len(cut)) + 1):
        byte = cut[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return cut[:-back] if needed > back else cut
    return cut


def cut_characters(text: bytes, limit_characters: int) -> bytes:
    """At most so many characters of valid UTF-8: the unit of OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT."""
    if len(text) <= limit_characters:
        return text
    return text.decode("utf-8")[:limit_characters].encode("utf-8")
