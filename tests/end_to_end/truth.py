"""Compares spans with what the clients say happened.

In:   Results (the clients' reports) and Spans (what the agent exported)
Out:  a list of differences, empty when every span is right
Owns: how far clocks and schedulers may push times apart

Each difference is one readable line; a test asserts that there are none.
"""

from collections import Counter
from urllib.parse import urlsplit

from tests.end_to_end.sink import CLIENT, ERROR, SERVER, Span
from tests.services.callers import Result

# A server's last write is seen when its system call returns, by when its client may have read the bytes already. On a
# machine that takes the CPU away from the server just then, that may be much later, but not most of the time.
TOLERANCE_NS = 2_000_000
LATEST_NS = 1_000_000_000
ENOUGH_TO_JUDGE_MOST = 10
# The agent turns monotonic times into wall-clock ones with an offset that it measures anew now and then.
CLOCK_TOLERANCE_NS = 5_000_000


def target_of(span: Span) -> str:
    """Path and query as they stood in the request line."""
    if span.kind == CLIENT:
        parts = urlsplit(span.attributes.get("url.full", ""))
        return f"{parts.path}?{parts.query}" if parts.query else parts.path
    path, query = span.attributes.get("url.path", ""), span.attributes.get("url.query")
    return path if query is None else f"{path}?{query}"


def belongs_to(prefix: str, kind: int | None = None):  # type: ignore[no-untyped-def]
    """Is this a span of the test whose ids begin so?"""
    return lambda span: prefix in target_of(span) and kind in (None, span.kind)


def differences(results: list[Result], spans: list[Span], kind: int, *, are_bodies_read: bool = True) -> list[str]:
    """One span of the kind for each result, and each equal to it.

    A server that answers without reading what is sent leaves the size of that unknown.
    """
    found = []
    by_target: dict[str, list[Span]] = {}
    for span in spans:
        if span.kind == kind:
            by_target.setdefault(target_of(span), []).append(span)
    for result in results:
        own = by_target.pop(result.target, [])
        if len(own) != 1:
            found.append(f"{result.method} {result.target}: {len(own)} spans")
        found += [
            f"{result.method} {result.target}: {line}"
            for span in own[:1]
            for line in of_one(result, span, are_bodies_read)
        ]
    found += [f"{target}: {len(extra)} spans that nobody asked for" for target, extra in by_target.items()]
    found += most_end_late(results, spans, kind)
    repeated = [span_id for span_id, count in Counter(span.span_id for span in spans).items() if count > 1]
    return found + [f"span id {span_id.hex()} twice" for span_id in repeated]


def of_one(result: Result, span: Span, are_bodies_read: bool) -> list[str]:
    is_error = result.status >= (400 if span.kind == CLIENT else 500)
    wanted = {
        "name": (" ".join([result.method, span.attributes.get("http.route", "")]).strip(), span.name),
        "method": (result.method, span.attributes.get("http.request.method")),
        "status": (result.status, span.attributes.get("http.response.status_code")),
        "url.scheme": (result.scheme, span.attributes.get("url.scheme")),
        "url.full": (span.kind == CLIENT, span.attributes.get("url.full", "").startswith(f"{result.scheme}://")),
        "error": (is_error, span.status_code == ERROR),
        "error.type": (str(result.status) if is_error else None, span.attributes.get("error.type")),
        "trace id": (16, len(span.trace_id)),
        "span id": (8, len(span.span_id)),
    }
    found = [f"{what} is {seen!r}, not {truth!r}" for what, (truth, seen) in wanted.items() if truth != seen]
    if result.own_port is not None and span.kind == SERVER:
        seen_port = span.attributes.get("network.peer.port")
        found += [] if result.own_port == seen_port else [f"peer's port is {seen_port}, not {result.own_port}"]
    if result.peer_address is not None and span.kind == CLIENT:
        peer = result.peer_address, result.peer_port
        seen_peer = span.attributes.get("network.peer.address"), span.attributes.get("network.peer.port")
        found += [] if peer == seen_peer else [f"peer is {seen_peer}, not {peer}"]
    found += body_sizes(result, span, are_bodies_read)
    may_be_late_ns = LATEST_NS if span.kind == SERVER else 0
    if not 0 <= span.duration_ns <= result.duration_ns + max(TOLERANCE_NS, may_be_late_ns):
        found.append(f"lasts {span.duration_ns} ns, for the client {result.duration_ns} ns")
    early_ns = result.start_unix_ns - span.start_unix_ns
    if early_ns > CLOCK_TOLERANCE_NS or late_ns(result, span) > CLOCK_TOLERANCE_NS + may_be_late_ns:
        found.append(f"begins {early_ns} ns before the client's call or ends {late_ns(result, span)} ns after it")
    return found


def late_ns(result: Result, span: Span) -> int:
    """How long after the client had its answer."""
    return span.end_unix_ns - (result.start_unix_ns + result.duration_ns)


def most_end_late(results: list[Result], spans: list[Span], kind: int) -> list[str]:
    """One span may be; if half of them are, it is not the machine."""
    by_target = {target_of(span): span for span in spans if span.kind == kind}
    late = sorted(late_ns(result, by_target[result.target]) for result in results if result.target in by_target)
    if len(late) < ENOUGH_TO_JUDGE_MOST or late[len(late) // 2] <= CLOCK_TOLERANCE_NS:
        return []
    return [f"half of the spans end {late[len(late) // 2]} ns or more after the client had its answer"]


def body_sizes(result: Result, span: Span, are_bodies_read: bool) -> list[str]:
    """Chunks have lengths in between that need not all be seen: then a size may be unknown, never wrong."""
    found = []
    for what, truth, may_be_unknown in (
        ("request", result.request_body_bytes, "/sent/chunked" in result.target or not are_bodies_read),
        ("response", result.response_body_bytes, "/framing/chunked" in result.target),
    ):
        seen = span.attributes.get(f"http.{what}.body.size")
        if seen != truth and not (may_be_unknown and seen is None):
            found.append(f"{what} body is {seen}, not {truth}")
    return found


__all__ = ["CLIENT", "SERVER", "belongs_to", "differences", "target_of"]
