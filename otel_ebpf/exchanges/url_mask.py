"""Overwrites what may be secret in the URLs of any text, piece by piece as it comes.

In:   pieces of the text: `<https://user:secret@host/?a=b>; rel=next`
Out:  each piece, of the same length: credentials and what follows a `=` behind the first `?` or `#` are `x`
Owns: where in the text it is

Of an authority that is not whole nothing is kept but its colons: it may go on with @. Each byte is looked at once.
"""

import re

_AUTHORITY = re.compile(rb"(?<=://)[^/?#@\s]*(?:(?=@)|\Z)")
_QUERY = re.compile(rb"[?#]")
_VALUE = re.compile(rb"=[^&;#\r\n]*")  # a fragment may have keys and values as well
CREDENTIALS_HIDDEN = bytes(byte if byte == ord(":") else ord("x") for byte in range(256))


class UrlMask:
    def __init__(self) -> None:
        self._before = b""  # what stands for all that came: by it an authority begins or goes on
        self._is_query = False
        self._is_value = False

    def feed(self, piece: bytes) -> bytes:
        return self._mask_values(self._mask_authorities(piece))

    def _mask_authorities(self, piece: bytes) -> bytes:
        known = len(self._before)
        text = self._before + piece
        is_open = False

        def hide(found: "re.Match[bytes]") -> bytes:
            nonlocal is_open
            is_open = found.end() == len(text)
            return found[0].translate(CREDENTIALS_HIDDEN)

        masked = _AUTHORITY.sub(hide, text)
        self._before = b"://" if is_open else text[-2:]
        return masked[known:]

    def _mask_values(self, piece: bytes) -> bytes:
        begin = 0
        if not self._is_query:
            found = _QUERY.search(piece)
            if found is None:
                return piece
            self._is_query, begin = True, found.end()
        equals = b"=" if self._is_value else b""
        text = equals + piece[begin:]
        self._is_value = False

        def hide(found: "re.Match[bytes]") -> bytes:
            self._is_value = found.end() == len(text)
            return b"=" + b"x" * (len(found[0]) - 1)

        return piece[:begin] + _VALUE.sub(hide, text)[len(equals) :]
