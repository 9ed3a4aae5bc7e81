"""Overwrites what may be secret in a chunked body, piece by piece as it comes.

In:   pieces of the body, one behind the other
Out:  each piece, of the same length: of RFC 9112 section 7.1 sizes and line ends stay, and names of trailers
Owns: where in the framing it is

From the first byte on that is no framing all of it is overwritten.
"""

import re

from otel_ebpf.exchanges.http1 import MAX_CHUNK_LINE_BYTES
from otel_ebpf.exchanges.line_mask import BLANKED, LineMask

_NOT_SIZE = re.compile(rb"[^0-9a-fA-F \t\r\n]")


class ChunkMask:
    def __init__(self) -> None:
        self._line = b""
        self._data_bytes = 0  # of this chunk still to come, its line end included
        self._trailer: LineMask | None = None
        self._is_broken = False

    @property
    def kept_bytes(self) -> int:
        return len(self._line) + (0 if self._trailer is None else self._trailer.kept_bytes)

    def mask(self, piece: bytes) -> bytes:
        masked = bytearray()
        at = 0
        while at < len(piece):
            if self._is_broken:
                end = len(piece)
                masked += b"x" * (end - at)
            elif self._data_bytes:
                end = min(len(piece), at + self._data_bytes)
                masked += self._mask_data(piece[at:end])
            else:
                end = piece.find(b"\n", at) + 1 or len(piece)
                masked += self._mask_line(piece[at:end])
            at = end
        return bytes(masked)

    def _mask_data(self, part: bytes) -> bytes:
        data_bytes = min(max(0, self._data_bytes - 2), len(part))
        line_end = part[data_bytes:]
        self._is_broken = not b"\r\n"[-(self._data_bytes - data_bytes) :].startswith(line_end)
        self._data_bytes -= len(part)
        return b"x" * data_bytes + line_end.translate(BLANKED)

    def _mask_line(self, part: bytes) -> bytes:
        is_extension = b";" in self._line
        self._line += part
        if self._trailer is not None:
            masked = self._trailer.feed(part)
        elif is_extension:
            masked = part.translate(BLANKED)
        else:
            size, semicolon, extension = part.partition(b";")
            masked = _NOT_SIZE.sub(b"x", size) + semicolon + extension.translate(BLANKED)
        if len(self._line) > MAX_CHUNK_LINE_BYTES:  # as ChunkedBody does
            self._is_broken = True
            self._line = b""
        elif part.endswith(b"\n"):
            self._end_line()
        return masked

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        digits = line.partition(b";")[0].strip()
        if self._trailer is not None:
            self._trailer = LineMask(False)
        elif not 1 <= len(digits) <= 16 or digits.strip(b"0123456789abcdefABCDEF"):
            self._is_broken = True
        elif size := int(digits, 16):
            self._data_bytes = size + 2
        else:
            self._trailer = LineMask(False)
