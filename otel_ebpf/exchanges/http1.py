"""Heads of HTTP/1 messages and where their bodies end (RFC 9112), for an observer.

In:   bytes as they crossed the wire, perhaps only their beginning
Out:  RequestHead, ResponseHead, or None while the head is incomplete; NotHttpError when it cannot become one
Owns: caches of header blocks and of heads, bounded

An observer forgives what an endpoint must refuse: it reports what was sent and invents nothing.
"""

import re
from typing import NamedTuple

from otel_ebpf.exchanges.known import Known

# A body's framing is its length in bytes, or one of these (RFC 9112 section 6.3).
CHUNKED = -1
UNTIL_CLOSE = -2
UNREADABLE = -3  # the headers that would tell were not captured, or contradict each other

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) ([^ \r\n]+) HTTP/(1\.[0-9])\r?\Z")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[0-9]) ([1-9][0-9][0-9])(?: [^\r\n]*)?\r?\Z")
_BEGINS_LIKE_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(?: [^ \r\n]*(?: [HTP/0-9.]{0,8}\r?)?)?")
_EMPTY_LINE = re.compile(rb"\n\r?\n")
_KNOWN_HEAD_BYTES = 1024
_MAX_KNOWN_HEADS = 1024  # of each kind
_MAX_EMPTY_BYTES = 1024  # before a request line
_new_tuple = tuple.__new__  # a NamedTuple's own takes three times as long
MAX_CHUNK_LINE_BYTES = 8192  # a size with its extensions, a trailer
_FRAMING_FIELDS = (b"content-length", b"transfer-encoding")
WANTED_FIELDS = frozenset(
    (*_FRAMING_FIELDS, b"host", b"user-agent", b"x-forwarded-for", b"traceparent", b"tracestate", b"expect")
)
# One search for all of them takes a third of what looking at each line does.
_WANTED_LINE = re.compile(rb"\n(?i:(%b)):([^\n]*)" % b"|".join(sorted(WANTED_FIELDS)))
_FRAMING_LINE = re.compile(rb"\n(?i:(%b)):([^\n]*)" % b"|".join(_FRAMING_FIELDS))


class NotHttpError(ValueError):
    """The bytes cannot be the beginning of an HTTP/1 message."""


class Fields(NamedTuple):
    """What the header fields of one block say; None: no such field."""

    host: bytes | None
    user_agent: bytes | None
    forwarded_for: bytes | None
    traceparent: bytes | None
    tracestate: bytes | None
    expects_continue: bool
    framing: int  # UNTIL_CLOSE when neither Content-Length nor Transfer-Encoding is there


class RequestHead(NamedTuple):
    method: bytes
    target: bytes
    version: bytes  # b"" when the head was cut before it
    fields: Fields
    framing: int
    length: int  # bytes of the head, its empty line included; of a cut head, what was captured
    headers: bytes  # the lines behind the first; of a cut head, those that are whole


class ResponseHead(NamedTuple):
    status: int
    framing: int  # by the headers alone; see response_framing
    length: int
    headers: bytes

    @property
    def is_interim(self) -> bool:
        return self.status < 200 and self.status != 101


def end_of_head(data: bytes, start: int = 0) -> int:
    """Where the body begins: behind the first empty line. -1 while there is none.

    RFC 9112 section 2.2: a line feed alone may end a line.
    """
    match = _EMPTY_LINE.search(data, start)
    return match.end() if match else -1


def parse_request_head(data: bytes, start: int = 0, *, is_cut: bool = False) -> RequestHead | None:
    """The request head that begins at `start`; leading empty lines are skipped (RFC 9112 section 2.2).

    None: incomplete. With is_cut, no more will come: what is there is taken, and what is missing is left open.
    """
    if start or is_cut:
        return _read_request_head(data, start, is_cut)
    key = data[: data.find(b"\r\n\r\n", 0, _KNOWN_HEAD_BYTES) + 4]
    head = _known_requests.get(key)
    if head is None:
        head = _read_request_head(data, 0, is_cut=False)
        if head is not None and head.length <= len(key):
            _known_requests.offer(key, head)
    return head


def parse_response_head(data: bytes, start: int = 0, *, is_cut: bool = False) -> ResponseHead | None:
    """The response head that begins at `start`; None while incomplete. With is_cut as for requests."""
    if start or is_cut:
        return _read_response_head(data, start, is_cut)
    key = data[: data.find(b"\r\n\r\n", 0, _KNOWN_HEAD_BYTES) + 4]
    head = _known_responses.get(key)
    if head is None:
        head = _read_response_head(data, 0, is_cut=False)
        if head is not None and head.length <= len(key):
            _known_responses.offer(key, head)
    return head


def _read_request_head(data: bytes, start: int, is_cut: bool) -> RequestHead | None:
    begin = start
    if data[start : start + 1] in (b"\r", b"\n"):
        begin = len(data) - len(data[start:].lstrip(b"\r\n"))
        if begin - start > _MAX_EMPTY_BYTES:
            raise NotHttpError("empty lines without end")
    line_end = data.find(b"\n", begin)
    if line_end < 0:
        return _request_without_line(data, begin, start, is_cut)
    match = _REQUEST_LINE.match(data, begin, line_end)
    if match is None:
        raise NotHttpError(f"not a request line: {data[begin : begin + 60]!r}")
    end = end_of_head(data, line_end)
    if end < 0 and not is_cut:
        return None
    headers = data[line_end + 1 : end if end >= 0 else data.rfind(b"\n") + 1]
    fields = _fields(headers)
    framing = fields.framing
    if framing == UNTIL_CLOSE:
        framing = 0  # a request without a length has no body: RFC 9112 section 6.3, item 7
    if end < 0 and framing == 0:
        framing = UNREADABLE
    length = (end if end >= 0 else len(data)) - start
    return _new_tuple(RequestHead, (*match.groups(), fields, framing, length, headers))


def _read_response_head(data: bytes, start: int, is_cut: bool) -> ResponseHead | None:
    line_end = data.find(b"\n", start)
    if line_end < 0:
        beginning = data[start : start + 7]
        if beginning != b"HTTP/1."[: len(beginning)] or is_cut:
            raise NotHttpError(f"not a status line: {data[start : start + 60]!r}")
        return None
    match = _STATUS_LINE.match(data, start, line_end)
    if match is None:
        raise NotHttpError(f"not a status line: {data[start : start + 60]!r}")
    end = end_of_head(data, line_end)
    if end < 0 and not is_cut:
        return None
    headers = data[line_end + 1 : end if end >= 0 else data.rfind(b"\n") + 1]
    framing = _framing(_find_fields(_FRAMING_LINE, headers))
    if end < 0 and framing == UNTIL_CLOSE:
        framing = UNREADABLE
    length = (end if end >= 0 else len(data)) - start
    return _new_tuple(ResponseHead, (int(match[2]), framing, length, headers))


def response_framing(head: ResponseHead, method: bytes) -> int:
    """How this response's body ends, given the method that it answers (RFC 9112 section 6.3, items 1 and 2)."""
    status = head.status
    if method == b"HEAD" or status in (204, 304) or status < 200:
        return 0
    if method == b"CONNECT" and status < 300:
        return 0
    return head.framing


class ChunkedBody:
    """Follows a chunked body (RFC 9112 section 7.1) piece by piece; keeps no more of it than one line."""

    __slots__ = ("_is_trailer", "_left_bytes", "_line", "is_ended", "payload_bytes")

    def __init__(self) -> None:
        self.is_ended = False
        self.payload_bytes = 0  # of the chunks that have begun
        self._left_bytes = 0  # of the chunk in hand, its line end included
        self._line = b""
        self._is_trailer = False

    def feed(self, piece: bytes) -> int:
        """How many bytes of the piece belong to the body. Raises NotHttpError where no chunk begins or ends."""
        at = 0
        while at < len(piece) and not self.is_ended:
            if self._left_bytes > 2:
                taken = min(self._left_bytes - 2, len(piece) - at)
                self._left_bytes -= taken
                at += taken
            elif self._left_bytes:
                if piece[at] != b"\n\r"[self._left_bytes - 1]:
                    raise NotHttpError("a chunk does not end where its size says")
                self._left_bytes -= 1
                at += 1
            else:
                end = piece.find(b"\n", at) + 1
                self._line += piece[at : end or len(piece)]
                if len(self._line) > MAX_CHUNK_LINE_BYTES:
                    raise NotHttpError(f"a line of more than {MAX_CHUNK_LINE_BYTES} bytes between chunks")
                if not end:
                    return len(piece)
                self._end_line()
                at = end
        return at

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        if self._is_trailer:
            self.is_ended = line in (b"\r\n", b"\n")
        elif size := _chunk_size(line):
            self.payload_bytes += size
            self._left_bytes = size + 2
        else:
            self._is_trailer = True


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not 1 <= len(digits) <= 16 or digits.strip(b"0123456789abcdefABCDEF"):
        raise NotHttpError(f"not a chunk size: {line[:20]!r}")
    return int(digits, 16)


def _request_without_line(data: bytes, begin: int, start: int, is_cut: bool) -> RequestHead | None:
    piece = data[begin:]
    if piece and not _BEGINS_LIKE_REQUEST.fullmatch(piece):
        raise NotHttpError(f"not a request line: {piece[:60]!r}")
    if not is_cut:
        return None
    method, _, rest = piece.partition(b" ")
    target = rest.partition(b" ")[0]  # perhaps not all of it, but nothing of the version
    if not target:
        raise NotHttpError(f"not a request line: {piece[:60]!r}")
    return RequestHead(method, target, b"", _read_fields(b""), UNREADABLE, len(data) - start, b"")


def _fields(block: bytes) -> Fields:
    if len(block) > _KNOWN_HEAD_BYTES:
        return _read_fields(block)
    fields = _known_fields.get(block)
    if fields is None:
        fields = _read_fields(block)
        _known_fields.offer(block, fields)
    return fields


def _find_fields(wanted_line: re.Pattern[bytes], block: bytes) -> dict[bytes, bytes]:
    """Names in any case. Repeated fields are joined: RFC 9110 section 5.3."""
    found: dict[bytes, bytes] = {}
    for name, value in wanted_line.findall(b"\n" + block):
        name, value = name.lower(), value.strip()
        found[name] = found[name] + b", " + value if name in found else value
    return found


def _read_fields(block: bytes) -> Fields:
    found = _find_fields(_WANTED_LINE, block)
    return Fields(
        found.get(b"host"),
        found.get(b"user-agent"),
        found.get(b"x-forwarded-for"),
        found.get(b"traceparent"),
        found.get(b"tracestate"),
        found.get(b"expect", b"").lower() == b"100-continue",
        _framing(found),
    )


# Clients repeat their header blocks; pollers and servers repeat whole heads, which their bytes up to the first usual empty
# line tell apart, wherever they end before it.
_known_fields: Known[Fields] = Known(_MAX_KNOWN_HEADS)
_known_requests: Known[RequestHead] = Known(_MAX_KNOWN_HEADS)
_known_responses: Known[ResponseHead] = Known(_MAX_KNOWN_HEADS)


def _framing(fields: dict[bytes, bytes]) -> int:
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        return CHUNKED if coding.lower().rpartition(b",")[2].strip() == b"chunked" else UNTIL_CLOSE
    length = fields.get(b"content-length")
    if length is None:
        return UNTIL_CLOSE
    if b"," in length:  # RFC 9112 section 6.3, item 5: the same length repeated is one length
        lengths = {part.strip() for part in length.split(b",")}
        length = lengths.pop() if len(lengths) == 1 else b""
    return int(length) if length.isdigit() and len(length) < 19 else UNREADABLE
