"""Overwrites what may be secret in one line of a head, piece by piece as it comes.

In:   pieces of the line
Out:  each piece, of the same length
Owns: where in the line it is

Kept are a start line but for credentials and for values in the query, header names, values of the fields that http1.py
reads, and those of the fields that are shown (but for what url_mask.py hides). Each byte is looked at once: a line that is
sent byte by byte costs no more than its bytes.
"""

import re
from collections.abc import Callable
from functools import partial

from otel_ebpf.exchanges.http1 import WANTED_FIELDS
from otel_ebpf.exchanges.url_mask import CREDENTIALS_HIDDEN, UrlMask

KEPT_FIELDS = WANTED_FIELDS | {b"connection"}
NOTHING: frozenset[bytes] = frozenset()

BLANKED = bytes(byte if byte in b"\r\n" else ord("x") for byte in range(256))
_NOT_SPACE = re.compile(rb"[^\s?]*")
_SCHEME = re.compile(rb"[^/?\s]*")
_USER = re.compile(rb"[^/?@\s]*")
_NAME = re.compile(rb"[^= ]*")
_VALUE = re.compile(rb"[^&; \r\n]*")

_Step = Callable[[bytes, int], int]  # from a place in the piece to the one from which another step goes on


class LineMask:
    """What follows a piece does not change what was kept of it."""

    def __init__(self, is_start_line: bool, shown: frozenset[bytes] = NOTHING) -> None:
        self.is_empty = True  # but for line ends
        self._shown = shown
        self._step: _Step = self._method if is_start_line else self._first_of_header
        self._masked = bytearray()
        self._name = bytearray()  # of a header, as far as it came
        self._last = b""

    @property
    def kept_bytes(self) -> int:
        return len(self._name)

    def feed(self, piece: bytes) -> bytes:
        self.is_empty = self.is_empty and not piece.strip(b"\r\n")
        self._masked.clear()
        at = 0
        while at < len(piece):
            at = self._step(piece, at)
        return bytes(self._masked)

    def _keep(self, piece: bytes, at: int, end: int) -> int:
        self._masked += piece[at:end]
        if end > at:
            self._last = piece[end - 1 : end]
        return end

    def _hide(self, piece: bytes, at: int, end: int, table: bytes = BLANKED) -> int:
        self._masked += piece[at:end].translate(table)
        return end

    # A start line: METHOD SCHEME://USER@HOST/PATH?NAME=VALUE&... VERSION

    def _method(self, piece: bytes, at: int) -> int:
        at = self._keep(piece, at, _end(_NOT_SPACE, piece, at))
        if at < len(piece):
            self._step = self._scheme if piece[at] == ord(" ") and self._last else self._path
            return self._path(piece, at) if piece[at] == ord("?") else self._keep(piece, at, at + 1)
        return at

    def _scheme(self, piece: bytes, at: int) -> int:
        at = self._keep(piece, at, _end(_SCHEME, piece, at))
        if at < len(piece):
            is_scheme = piece[at] == ord("/") and self._last == b":"
            self._step = self._second_slash if is_scheme else self._path
            return self._keep(piece, at, at + 1) if is_scheme else at
        return at

    def _second_slash(self, piece: bytes, at: int) -> int:
        self._step = self._user if piece[at] == ord("/") else self._path
        return self._keep(piece, at, at + 1) if piece[at] == ord("/") else at

    def _user(self, piece: bytes, at: int) -> int:
        end = _end(_USER, piece, at)
        if end < len(piece):
            self._step = self._path
            if piece[end] != ord("@"):
                return self._keep(piece, at, end)
        return self._hide(piece, at, end, CREDENTIALS_HIDDEN)  # an authority that is not whole may go on with @

    def _path(self, piece: bytes, at: int) -> int:
        mark = piece.find(b"?", at)
        if mark >= 0:
            self._step = self._query_name
        return self._keep(piece, at, mark + 1 if mark >= 0 else len(piece))

    def _query_name(self, piece: bytes, at: int) -> int:
        at = self._keep(piece, at, _end(_NAME, piece, at))
        if at < len(piece):
            self._step = self._rest if piece[at] == ord(" ") else self._query_value
            return self._keep(piece, at, at + 1)
        return at

    def _query_value(self, piece: bytes, at: int) -> int:
        end = _end(_VALUE, piece, at)
        if end < len(piece):
            self._step = self._query_name
        return self._hide(piece, at, end)

    def _rest(self, piece: bytes, at: int) -> int:
        return self._keep(piece, at, len(piece))

    # A header line

    def _first_of_header(self, piece: bytes, at: int) -> int:
        # A line that begins with a space goes on with the value before (obs-fold, RFC 9112 section 5.2).
        self._step = self._hidden_value if piece[at] in b" \t" else self._header_name
        return at

    def _header_name(self, piece: bytes, at: int) -> int:
        colon = piece.find(b":", at)
        end = colon if colon >= 0 else len(piece)
        self._name += piece[at:end]
        if colon < 0:
            return self._keep(piece, at, end)
        name = bytes(self._name).lower()
        self._name.clear()
        if name in KEPT_FIELDS:
            self._step = self._rest
        else:
            self._step = partial(self._shown_value, UrlMask()) if name in self._shown else self._first_of_value
        return self._keep(piece, at, colon + 1)

    def _first_of_value(self, piece: bytes, at: int) -> int:
        self._step = self._hidden_value
        return self._keep(piece, at, at + 1) if piece[at] in b" \t" else at

    def _hidden_value(self, piece: bytes, at: int) -> int:
        return self._hide(piece, at, len(piece))

    def _shown_value(self, urls: UrlMask, piece: bytes, at: int) -> int:
        self._masked += urls.feed(piece[at:])
        return len(piece)


def _end(pattern: re.Pattern[bytes], piece: bytes, at: int) -> int:
    found = pattern.match(piece, at)
    return at if found is None else found.end()


def mask_line(line: bytes, is_start_line: bool, shown: frozenset[bytes] = NOTHING) -> bytes:
    """One line, perhaps only its beginning."""
    return LineMask(is_start_line, shown).feed(line)
