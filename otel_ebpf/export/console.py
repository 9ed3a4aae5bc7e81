"""The trace printer: exchanges as people or scripts read them.

In:   Exchange, its SpanData, the service's name
Out:  lines on a stream: `text` one a request, `json` one object a request, `counter` one a second
Owns: the lines of this tick, the totals of `counter`

What stood on the wire is printed to somebody's terminal, so control characters and bytes that are not UTF-8 are
escaped, and secrets in queries are redacted as on spans. Lines are written once a tick: one system call, not one a
request.
"""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from time import localtime, strftime
from typing import NamedTuple, Protocol

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role, Unknown
from otel_ebpf.telemetry.attributes import SECRET_KEYS, address_text, redact_query, split_target, without_credentials
from otel_ebpf.telemetry.spans import SpanData

PATH_LIMIT_CHARACTERS = 1024
METHOD_LIMIT_BYTES = 32
COUNTER_SECONDS = 1.0
MAX_COUNTED_SERVICES = 500  # that `counter` names
SERVICE_WIDTH = 16
METHOD_WIDTH = 7
PATH_WIDTH = 36

GREEN, YELLOW, RED, DIM, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"
UNKNOWN_NAMES = [(flag, (flag.name or "").lower()) for flag in Unknown if flag]


class Stream(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> None: ...


class ServiceTotals:
    """What `counter` has seen of one service since the start."""

    __slots__ = ("client", "failed", "server")

    def __init__(self) -> None:
        self.server = 0
        self.client = 0
        self.failed = 0


class Printed(NamedTuple):
    """All that one line is made of."""

    exchange: Exchange
    span: SpanData
    service: str
    secret_keys: frozenset[bytes] = SECRET_KEYS  # whose values in queries are not printed


class Console:
    """Prints exchanges in one of the forms of OTEL_EBPF_TRACE_PRINTER."""

    def __init__(self, form: str, stream: Stream, is_coloured: bool = False, now_seconds: float = 0.0) -> None:
        """`is_coloured` belongs to `text`, on a terminal; `now_seconds` is any clock, the same as for `flush`."""
        self._stream = stream
        forms: dict[str, Callable[[Printed], str]] = {
            "text": partial(text_line, is_coloured=is_coloured),
            "json": json_line,
        }
        self._line = forms.get(form)  # None: counter
        self.secret_keys = SECRET_KEYS
        self.wants_evidence = form == "json"
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._lines: list[str] = []
        self._totals: dict[str, ServiceTotals] = {}
        self._counted_at = now_seconds
        self._is_counter_due = False
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """False once whoever read the lines has gone."""
        return self._is_open

    def add(self, exchange: Exchange, span: SpanData, service: str) -> None:
        """Takes one exchange; it is printed by the next `flush`."""
        if not self._is_open:
            return
        if self._line is not None:
            self._lines.append(self._line(Printed(exchange, span, service, self.secret_keys)))
            return
        if service not in self._totals and len(self._totals) >= MAX_COUNTED_SERVICES:
            service = "others"
        totals = self._totals.setdefault(service, ServiceTotals())
        self._is_counter_due = True
        if exchange.role is Role.SERVER:
            totals.server += 1
        else:
            totals.client += 1
        totals.failed += span.series.is_error

    def flush(self, now_seconds: float, is_last: bool = False) -> None:
        """Writes what has come since the last time; the reader may have gone (`| head`), which is no error."""
        if self._is_counter_due and (is_last or now_seconds >= self._counted_at + COUNTER_SECONDS):
            self._counted_at = now_seconds
            self._is_counter_due = False
            self._lines.append(counter_line(self._totals))
        if not self._lines or not self._is_open:
            return
        # A terminal that is not UTF-8 has no arrows: it gets escapes.
        output = "".join(self._lines).encode(self._encoding, "backslashreplace").decode(self._encoding)
        self._lines.clear()
        try:
            self._stream.write(output)
            self._stream.flush()
        except (BrokenPipeError, ValueError):  # ValueError: the stream was closed
            self._is_open = False


def text_line(printed: Printed, is_coloured: bool) -> str:
    """`12:00:01.250 shop  → GET  /items/7  200  3.21 ms  10.0.0.1:4711`: → was served, ← was called."""
    exchange, span, service, _ = printed
    target = split_target(exchange.method, exchange.target, exchange.scheme)
    path = escaped(
        (target.path if target.path is not None else without_credentials(exchange.target))[: PATH_LIMIT_CHARACTERS * 4]
    )
    if len(path) > PATH_LIMIT_CHARACTERS:
        path = path[:PATH_LIMIT_CHARACTERS] + "…"
    status = str(exchange.status) if exchange.status is not None else "---"
    ending = "" if exchange.outcome is Outcome.COMPLETE else f"  {exchange.outcome.value}"
    seconds, rest_ns = divmod(span.start_unix_ns, 1_000_000_000)
    clock = f"{strftime('%H:%M:%S', localtime(seconds))}.{rest_ns // 1_000_000:03d}"
    if is_coloured:
        colour = RED if span.series.is_error else YELLOW if (exchange.status or 0) >= 400 else GREEN
        clock, status = f"{DIM}{clock}{PLAIN}", f"{colour}{status}{PLAIN}"
    name, method = escaped_text(service), escaped(exchange.method[:METHOD_LIMIT_BYTES])
    return (
        f"{clock} {name:<{SERVICE_WIDTH}} {ARROWS[exchange.role]} {method:<{METHOD_WIDTH}} "
        f"{path:<{PATH_WIDTH}} {status} {duration_text(span):>10}  {peer_text(exchange)}{ending}\n"
    )


ARROWS = {Role.SERVER: "→", Role.CLIENT: "←"}


def duration_text(span: SpanData) -> str:
    """Three digits and a unit."""
    ns = span.end_unix_ns - span.start_unix_ns
    if ns < 1_000_000:
        return f"{ns / 1e3:.0f} µs"
    if ns < 1_000_000_000:
        return f"{ns / 1e6:.2f} ms"
    return f"{ns / 1e9:.2f} s"


def peer_text(exchange: Exchange) -> str:
    """`10.0.0.1:4711`, `[fe80::1]:80`, `unix`, or nothing."""
    if exchange.family == 1:
        return "unix"
    address = address_text(exchange.family, exchange.remote_address)
    if address is None:
        return ""
    shown = address.decode("ascii")
    return f"[{shown}]:{exchange.remote_port}" if ":" in shown else f"{shown}:{exchange.remote_port}"


def counter_line(totals: dict[str, ServiceTotals]) -> str:
    """Totals since the start, one part a service."""
    parts = [
        f"{escaped_text(name)} → {seen.server} ← {seen.client}" + (f" failed {seen.failed}" if seen.failed else "")
        for name, seen in sorted(totals.items())
    ]
    count = sum(seen.server + seen.client for seen in totals.values())
    return f"{count} requests: {', '.join(parts)}\n"


def json_line(printed: Printed) -> str:
    """All facts of an exchange; what is not known is null, and `unknown` says why. ASCII: nothing can be injected."""
    exchange, span, service, secret_keys = printed
    target = split_target(exchange.method, exchange.target, exchange.scheme)
    to_unix_ns = span.start_unix_ns - exchange.request_start_ns
    times = (exchange.request_start_ns, exchange.request_end_ns, exchange.response_start_ns, exchange.response_end_ns)
    start, request_end, response_start, response_end = (None if at is None else at + to_unix_ns for at in times)
    facts = {
        "time": datetime.fromtimestamp(span.start_unix_ns / 1e9, timezone.utc).isoformat(timespec="microseconds"),
        "service": service,
        "role": exchange.role.name.lower(),
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex() or None,
        "method": _json_text(exchange.method),
        "scheme": _json_text(target.scheme),
        "path": _json_text(target.path),
        "query": _json_text(None if target.query is None else redact_query(target.query, secret_keys)),
        "route": _json_text(_route_of(span)),
        "host": _json_text(exchange.host if target.authority is None else target.authority.rpartition(b"@")[2]),
        "version": _json_text(exchange.version),
        "status": exchange.status,
        "error": span.series.is_error,
        "user_agent": _json_text(exchange.user_agent),
        "forwarded_for": _json_text(exchange.forwarded_for),
        "outcome": exchange.outcome.value,
        "unknown": [name for flag, name in UNKNOWN_NAMES if exchange.unknown & flag],
        "evidence": {name: value.decode() for name, value in span.evidence if isinstance(value, bytes)},
        "request_start_unix_ns": start,
        "request_end_unix_ns": request_end,
        "response_start_unix_ns": response_start,
        "response_end_unix_ns": response_end,
        "end_unix_ns": exchange.end_ns + to_unix_ns,
        "duration_ns": span.end_unix_ns - span.start_unix_ns,
        "request_bytes": exchange.request_bytes,
        "response_bytes": exchange.response_bytes,
        "request_body_bytes": exchange.request_body_bytes,
        "response_body_bytes": exchange.response_body_bytes,
        "local_address": _json_text(address_text(exchange.family, exchange.local_address)),
        "local_port": exchange.local_port,
        "peer_address": _json_text(address_text(exchange.family, exchange.remote_address)),
        "peer_port": exchange.remote_port,
        "network": {1: "unix", 2: "ipv4", 10: "ipv6"}.get(exchange.family),
        "pid": exchange.pid,
        "tid": exchange.tid,
        "service_pid": exchange.service_pid,
        "connection": exchange.connection,
        "position": exchange.position,
        "lookup": _json_lookup(exchange, to_unix_ns),
    }
    return json.dumps(facts, ensure_ascii=True, separators=(",", ":")) + "\n"


def _json_lookup(exchange: Exchange, to_unix_ns: int) -> dict[str, object] | None:
    """Of the name that its connection was made to."""
    lookup = exchange.lookup
    if lookup is None:
        return None
    duration_ns = lookup.end_monotonic_ns - lookup.start_monotonic_ns
    start_unix_ns = lookup.start_monotonic_ns + to_unix_ns
    return {"name": _json_text(lookup.name), "start_unix_ns": start_unix_ns, "duration_ns": duration_ns}


def _route_of(span: SpanData) -> bytes | None:
    route = dict(span.series.attributes).get("http.route")
    return route if isinstance(route, bytes) else None


def _json_text(raw: bytes | None) -> str | None:
    """Bytes that are not UTF-8 stay visible as \\xNN."""
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def escaped(raw: bytes) -> str:
    """Bytes of the wire as text that does nothing to a terminal."""
    return escaped_text(raw.decode("utf-8", "backslashreplace"))


def escaped_text(text: str) -> str:
    """Control, format and direction characters become escapes; a backslash of the sender stays as it is."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
