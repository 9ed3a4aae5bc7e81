"""Where an exchange stands among those that it caused and the one that caused it.

In:   what is known when an exchange begins
Out:  Kin, shared by all who link to it
Owns: nothing

An exchange has one when something links to it or it links to something, and none otherwise. Children end before their
parents, so all that a child needs of its parent is here, from the parent's first byte on.
"""

from enum import IntEnum
from typing import NamedTuple, Protocol

from otel_ebpf.records.kinds import LinkEvidence

MAX_DEPTH = 128  # of exchanges under each other: a job that starts itself anew by a request would be one trace for ever


class ParentState(IntEnum):
    """What had become of the parent when the child began. The later, the weaker the link: a worker that lives on behind
    the request that started it looks like a task of that request."""

    OPEN = 0  # no byte of its response had moved
    ANSWERING = 1  # its response had begun
    ENDED = 2


class Link(NamedTuple):
    parent: "Kin"
    evidence: LinkEvidence
    state: ParentState


class TraceHeaders(NamedTuple):
    traceparent: bytes | None
    tracestate: bytes | None


NO_HEADERS = TraceHeaders(None, None)


class HeadReader(Protocol):
    """A run, as far as it is needed here."""

    @property
    def trace_headers(self) -> TraceHeaders | None: ...


class Kin:
    __slots__ = (
        "_headers",
        "_reader",
        "connection",
        "depth",
        "is_awaited",
        "is_over",
        "is_server",
        "link",
        "number",
        "place",
    )

    def __init__(self, connection: int, number: int, *, is_server: bool, headers: TraceHeaders | None = None) -> None:
        self.connection = connection
        self.number = number
        self.is_server = is_server
        self.link: Link | None = None
        self.depth = 0  # so many exchanges were above it when it was linked
        self.is_over = False  # it has given an exchange, or never will
        self.is_awaited = False  # the record of the client that has sent it is still to come
        self.place: object | None = None  # of its span, once anybody has asked: telemetry's
        self._headers = headers
        self._reader: HeadReader | None = None

    def read_from(self, reader: HeadReader) -> None:
        """The head is not whole yet."""
        self._reader = reader

    @property
    def trace_headers(self) -> TraceHeaders | None:
        """None: not known yet."""
        if self._headers is None and self._reader is not None:
            self._headers = self._reader.trace_headers
        if self._headers is not None:
            self._reader = None  # which keeps bytes
        return self._headers

    def end(self, headers: TraceHeaders | None = None) -> None:
        """`headers`: of the exchange that it has given."""
        self.is_over = True
        self._headers = headers or self.trace_headers
        self._reader = None

    @property
    def first(self) -> "Kin":
        """The exchange on this host that all began with."""
        kin = self
        for _ in range(MAX_DEPTH):
            if kin.link is None:
                break
            kin = kin.link.parent
        return kin
