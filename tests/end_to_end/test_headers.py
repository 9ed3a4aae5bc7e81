"""Headers on spans: those that were named, never a secret, the same from a recording without secrets."""

from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.test_recording import by_id, recording_agent, replay_as_nobody, stop
from tests.end_to_end.truth import belongs_to
from tests.services.plan import make_call

SECRET = "hunter2hunter2"
SENT = {
    "X-Tag": "blue",
    "X-Customer": f"Ann {SECRET}",
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"session={SECRET}",
    "Referer": f"https://me:{SECRET}@shop.example/?token={SECRET}",
}
QUERY = f"customer={SECRET}&token={SECRET}"
SETTINGS = {
    "OTEL_EBPF_CAPTURE_REQUEST_HEADERS": "X-Tag,x-customer,authorization,cookie,referer,x-absent",
    "OTEL_EBPF_CAPTURE_RESPONSE_HEADERS": "X-Received-Bytes,set-cookie",
    "OTEL_EBPF_CAPTURE_SANITIZE_HEADERS": "x-cust*",
    "OTEL_EBPF_SENSITIVE_QUERY_PARAMS_ADD": "customer",
}
SHOWN = {
    "http.request.header.x-tag": ["blue"],
    "http.request.header.x-customer": ["REDACTED"],
    "http.request.header.authorization": ["REDACTED"],
    "http.request.header.cookie": ["REDACTED"],
    "http.request.header.referer": ["https://REDACTED:REDACTED@shop.example/?token=REDACTED"],
    "http.response.header.x-received-bytes": ["3"],
}


def test_named_headers_are_on_the_spans_of_both_ends(prefix: str, stage: Stage) -> None:
    server = stage.server("go")
    client = stage.client("http.client", server, [make_call(f"{prefix}1", "POST", sent=3, headers=SENT, query=QUERY)])
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_TARGET_PID=client.pid, **SETTINGS)

    client.send()

    spans = stage.sink.wait_for(2, belongs_to(prefix))
    assert {SERVER, CLIENT} == {span.kind for span in spans}
    for span in spans:
        assert SHOWN == {key: value for key, value in span.attributes.items() if ".header." in key}
    assert [] == [request for request in stage.sink.requests if SECRET.encode() in request.SerializeToString()]


def test_a_redacted_recording_gives_the_same_headers_and_holds_no_secret(prefix: str, stage: Stage) -> None:
    server = stage.server("go")
    agent, path = recording_agent(stage, server.port, "--record-redacted", **SETTINGS)
    stage.client("http.client", server, [make_call(f"{prefix}1", "POST", sent=3, headers=SENT, query=QUERY)]).send()
    (span,) = stage.sink.wait_for(1, belongs_to(prefix, SERVER))
    stop(agent)

    replayed, _ = replay_as_nobody(path)

    assert SHOWN == {key: value for key, value in span.attributes.items() if ".header." in key}
    assert by_id(stage.sink.spans) == by_id(replayed)
    assert SECRET.encode() not in path.read_bytes()
    assert b"blue" in path.read_bytes()
