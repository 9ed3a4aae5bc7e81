"""What one HTTP exchange was: a request with its response, as read from the wire.

Pure data. Times are CLOCK_MONOTONIC nanoseconds, sizes are bytes, text is the bytes of the wire: what is not
known is None, and `unknown` says why.
"""

from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from typing import NamedTuple

from otel_ebpf.exchanges.kin import Kin, Link
from otel_ebpf.records.kinds import Lookup


class Role(IntEnum):
    """Which side of the exchange the watched process was; the numbers are OpenTelemetry's SpanKind."""

    SERVER = 2
    CLIENT = 3


class Outcome(Enum):
    """How the exchange ended, from what was seen and nothing else."""

    COMPLETE = "complete"  # the whole response, by its own framing
    CLIENT_CLOSED = "client_closed"  # the client went away before the response was whole
    SERVER_CLOSED = "server_closed"  # the server closed before the response was whole
    RESET = "reset"
    TIMEOUT = "timeout"  # TCP gave up: the peer acknowledged nothing more
    UNKNOWN = "unknown"  # the end was not seen; response_end_ns is the last byte that was


class Unknown(IntFlag):
    """Why a field is None or a lower bound."""

    NOTHING = 0
    REQUEST_HEAD_CUT = 1  # longer than what is captured: target and headers may be partial
    RESPONSE_HEAD_CUT = 2
    RESPONSE_END = 4  # the response's framing was not readable, its end is where the exchange ended
    REQUEST_BODY = 8
    RESPONSE_BODY = 16


class Inferred(IntFlag):
    """What was inferred rather than read, and from what. Where two tell the same, the stronger one stands."""

    NOTHING = 0
    ROLE_BY_REQUEST = 1  # server or client by who sent the request: the connection is older than the agent
    REQUEST_END_TIME = 4  # the request ended at `request_end_ns` or before: later bytes had moved by then
    RESPONSE_END_BY_LAST_CHUNK = 8  # the last bytes look like a last chunk, and nothing followed them
    RESPONSE_END_BY_NEXT_REQUEST = 16  # nothing said where it ends; the client went on
    RESPONSE_END_BY_NEXT_RESPONSE = 32  # nothing said where it ends; the one behind it began
    RESPONSE_END_BY_CLOSE = 64  # it has no length, RFC 9112 section 6.3, item 8: one that broke off looks the same
    END_TIME = 128  # the exchange ended at `end_ns` or before
    LOOKUP_BY_ADDRESS = 256  # another thread looked the name up: by the address that was connected to, and by Host


HTTP, HTTPS = b"http", b"https"


@dataclass(slots=True)
class Exchange:
    """One request and its response; `connection` and `position` together are unique in a run of the agent."""

    connection: int
    position: int
    pid: int
    tid: int
    service_pid: int
    role: Role
    family: int  # AF_UNIX 1, AF_INET 2, AF_INET6 10
    local_address: bytes  # 16 bytes, IPv4 in the first four; zero for AF_UNIX
    local_port: int
    remote_address: bytes
    remote_port: int
    method: bytes
    target: bytes  # request-target as sent, RFC 9112 section 3.2
    version: bytes  # b"1.1" or b"1.0"
    host: bytes | None
    user_agent: bytes | None
    forwarded_for: bytes | None  # X-Forwarded-For
    traceparent: bytes | None
    tracestate: bytes | None
    status: int | None
    request_start_ns: int
    request_end_ns: int
    response_start_ns: int | None
    response_end_ns: int | None
    end_ns: int  # when the exchange ended: the last response byte, or the close that ended it
    request_bytes: int  # head and body
    response_bytes: int
    request_body_bytes: int | None
    response_body_bytes: int | None
    outcome: Outcome
    unknown: Unknown
    inferred: Inferred
    # All header lines of either head, as captured. Secrets are among them: only telemetry/headers.py looks at them, and they
    # are no part of what is compared or shown.
    request_headers: bytes = field(default=b"", compare=False, repr=False)
    response_headers: bytes = field(default=b"", compare=False, repr=False)
    scheme: bytes = HTTP  # of the connection: https where TLS was read
    kin: Kin | None = field(default=None, compare=False, repr=False)  # where it is linked with others
    lookup: Lookup | None = None  # of a name, before its connection was made
    asked_name: bytes | None = None  # what the server is called, when a bare address was called after that

    @property
    def link(self) -> Link | None:
        """To the exchange on this host that caused it."""
        return None if self.kin is None else self.kin.link

    @property
    def kept_bytes(self) -> int:
        """Of what its sender chose the length of."""
        return len(self.target) + len(self.request_headers) + len(self.response_headers)

    @property
    def last_ns(self) -> int:
        """Where the span ends. Where nobody saw the end, the last byte is the last that is known."""
        if self.outcome is Outcome.UNKNOWN and self.response_end_ns is not None:
            return self.response_end_ns
        return self.end_ns


class OpenRequest(NamedTuple):
    """A request whose exchange has not ended, as far as it is known now."""

    service_pid: int
    role: Role
    family: int
    remote_address: bytes
    remote_port: int
    method: bytes
    target: bytes
    host: bytes | None
    scheme: bytes = HTTP
    asked_name: bytes | None = None  # see Exchange; not known before the end
