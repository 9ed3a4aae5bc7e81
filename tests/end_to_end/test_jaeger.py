"""What the agent saw is what Jaeger tells: through a real Collector, with the shipped configurations of both."""

from typing import Any

from tests.end_to_end.backends import Jaeger, collector_and_jaeger, written_spans
from tests.end_to_end.sink import CLIENT, ERROR, SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import differences, target_of
from tests.services.callers import Result
from tests.services.plan import all_calls, make_call
from tests.services.processes import wait_until
from tests.services.servers import Running

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "shop=1"}
# Jaeger says in it what it thinks of a trace whose root it has not got.
JAEGERS_OWN = {"@jaeger@warnings"}


def test_spans_come_back_from_jaeger_with_the_same_fields(prefix: str, stage: Stage) -> None:
    """Server and client spans: each attribute that the plan of the test knows, and all fields that the Collector sent."""
    server = stage.server("go")
    collector, output, backend = stage.ends.enter_context(collector_and_jaeger(stage.new_folder("jaeger")))
    calls = [*all_calls(prefix), make_call(f"{prefix}in", "GET", headers={**CONTEXT, "User-Agent": "shopper/1.0"})]
    client = stage.client("http.client", server, calls)
    stage.agent(sink=collector, OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_TARGET_PID=client.pid)

    results = client.send()

    wait_until(lambda: len(written_spans(output)) >= 2 * len(results), "all spans have passed the Collector")
    sent = {span.span_id: span for span in written_spans(output)}
    assert 2 * len(results) == len(sent)
    stored = {span.span_id: span for span in stored_spans(backend, sent)}
    assert [] == differences(results, list(stored.values()), SERVER)
    assert [] == differences(results, list(stored.values()), CLIENT)
    assert [] == [line for result in results for line in unlike_truth(result, server, stored)]
    assert sent == stored, "Jaeger's OTLP query"
    shown = {bytes.fromhex(span["spanID"]): (span, trace) for span, trace in shown_spans(backend, sent)}
    assert sent.keys() == shown.keys()
    assert [] == [line for span_id, span in sent.items() for line in unlike_shown(span, *shown[span_id])]
    assert {span.resource["service.name"] for span in sent.values()} == set(backend.services())


def stored_spans(backend: Jaeger, sent: dict[bytes, Span]) -> list[Span]:
    """By /api/v3/traces, once all have been stored."""
    found: list[Span] = []

    def all_there() -> bool:
        found[:] = [span for trace_id in trace_ids(sent) for span in backend.otlp_spans(trace_id)]
        return len(found) >= len(sent)

    wait_until(all_there, f"{len(sent)} spans in Jaeger")
    for span in found:
        for name in JAEGERS_OWN:
            span.attributes.pop(name, None)
    return found


def shown_spans(backend: Jaeger, sent: dict[bytes, Span]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """By /api/traces, which its web page reads: each span with its trace."""
    traces = [backend.trace(trace_id) for trace_id in trace_ids(sent)]
    return [(span, trace) for trace in traces if trace for span in trace["spans"]]


def trace_ids(sent: dict[bytes, Span]) -> list[str]:
    return sorted({span.trace_id.hex() for span in sent.values()})


def unlike_truth(result: Result, server: Running, stored: dict[bytes, Span]) -> list[str]:
    """The attributes of both spans of one request that are known before the agent has seen it."""
    found = []
    for span in stored.values():
        if target_of(span) != result.target:
            continue
        wanted = truth_of(result, server, span.kind)
        found += [
            f"{result.target}: {key} is {span.attributes.get(key)!r}, not {value!r}"
            for key, value in wanted.items()
            if span.attributes.get(key) != value
        ]
        if result.id.endswith("in"):
            seen = (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state)
            found += [] if (TRACE_ID, PARENT_ID, "shop=1") == seen else [f"{result.target}: context is {seen}"]
    return found


def truth_of(result: Result, server: Running, kind: int) -> dict[str, Any]:
    path, _, query = result.target.partition("?")
    is_error = result.status >= (400 if kind == CLIENT else 500)
    both: dict[str, Any] = {
        "http.request.method": result.method,
        "http.response.status_code": result.status,
        "error.type": str(result.status) if is_error else None,
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "url.scheme": "http",
    }
    if kind == CLIENT:
        full = f"http://127.0.0.1:{server.port}{result.target}"
        return {**both, "url.full": full, "network.peer.port": server.port, "url.path": None}
    agent = "shopper/1.0" if result.id.endswith("in") else None
    return {
        **both,
        "url.path": path,
        "url.query": query or None,
        "client.address": "127.0.0.1",
        "user_agent.original": agent,
        "url.full": None,
    }


def unlike_shown(span: Span, shown: dict[str, Any], trace: dict[str, Any]) -> list[str]:
    """Jaeger's own form of a span: microseconds, and tags for all that is not a field there."""
    tags = {tag["key"]: tag["value"] for tag in shown["tags"]}
    process = trace["processes"][shown["processID"]]
    resource = {"service.name": process["serviceName"], **{tag["key"]: tag["value"] for tag in process["tags"]}}
    parents = [reference["spanID"] for reference in shown["references"]]
    is_error = span.status_code == ERROR
    pairs = {
        "trace id": (span.trace_id.hex(), shown["traceID"]),
        "parents": ([span.parent_span_id.hex()] if span.parent_span_id else [], parents),
        "name": (span.name, shown["operationName"]),
        "kind": ({SERVER: "server", CLIENT: "client"}[span.kind], tags.get("span.kind")),
        "status": ("ERROR" if is_error else None, tags.get("otel.status_code")),
        "error": (is_error, tags.get("error", False)),
        "trace state": (span.trace_state or None, tags.get("w3c.tracestate")),
        "start": (span.start_unix_ns // 1000, shown["startTime"]),
        "duration": (span.duration_ns // 1000, shown["duration"]),
        "scope": ("otel-ebpf", tags.get("otel.scope.name")),
        "resource": (span.resource, resource),
        "attributes": (span.attributes, {key: value for key, value in tags.items() if key in span.attributes}),
    }
    return [f"{span.name}: {what} is {seen!r}, not {sent!r}" for what, (sent, seen) in pairs.items() if sent != seen]
