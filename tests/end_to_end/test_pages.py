"""What the agent says over HTTP: to Prometheus, and to those who ask how it is."""

import json
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

import pytest
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.end_to_end.agent import kill_session, start_agent
from tests.end_to_end.hooks import hooks_in_use
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to
from tests.services.plan import all_calls
from tests.services.processes import free_port, wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
DURATION = "http_server_request_duration_seconds"


def get(port: int, path: str, accept: str = "") -> tuple[int, str, str]:
    """Status, type and body; status 0 when nobody listens."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return 0, "", ""


def scrape(port: int, accept: str = OPENMETRICS) -> dict[str, Family]:
    status, content_type, body = get(port, "/metrics", accept)
    assert 200 == status, body
    parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    return {family.name: family for family in parse(body)}


def requests_of(families: dict[str, Family]) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    samples = families[DURATION].samples if DURATION in families else []
    for sample in samples:
        if sample.name == f"{DURATION}_count":
            key = sample.labels["http_request_method"], int(sample.labels.get("http_response_status_code", 0))
            found[key] += int(sample.value)
    return found


@pytest.mark.parametrize("accept", [OPENMETRICS, "text/plain"])
def test_prometheus_scrapes_every_request(accept: str, prefix: str, stage: Stage) -> None:
    """The client's own report is the truth; exemplars are spans that arrived, `job` is the service."""
    server, port = stage.server("go", OTEL_SERVICE_NAME="shop"), free_port()
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_PROMETHEUS_PORT=port)
    results = stage.client("http.client", server, all_calls(prefix)).send()
    spans = stage.sink.wait_for(len(results), belongs_to(prefix))

    families = scrape(port, accept)

    assert Counter((result.method, result.status) for result in results) == requests_of(families)
    samples = families[DURATION].samples
    assert {"shop"} == {sample.labels["job"] for sample in samples}
    total = sum(sample.value for sample in samples if sample.name == f"{DURATION}_sum")
    assert pytest.approx(sum(span.duration_ns for span in spans) / 1e9) == total
    exemplars = [sample.exemplar.labels for sample in samples if sample.exemplar]
    kept = [{"trace_id": span.trace_id.hex(), "span_id": span.span_id.hex()} for span in spans]
    assert bool(exemplars) == (accept == OPENMETRICS)
    assert [] == [labels for labels in exemplars if labels not in kept]


def test_prometheus_needs_no_collector(prefix: str, stage: Stage) -> None:
    """Exponential and delta are for OTLP alone: here totals stay totals, in the conventions' buckets."""
    server, port = stage.server("go"), free_port()
    stage.agent(
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_PROMETHEUS_PORT=f"127.0.0.1:{port}",
        OTEL_EBPF_PROMETHEUS_PATH="/metrics",
        OTEL_METRIC_EXPORT_INTERVAL="200",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="base2_exponential_bucket_histogram",
    )
    truth: Counter[tuple[str, int]] = Counter()
    for part in "ab":
        results = stage.client("http.client", server, all_calls(f"{prefix}{part}")).send()
        truth.update((result.method, result.status) for result in results)
        wait_until(lambda: requests_of(scrape(port)) == truth, "all is counted")
        exports = len(stage.sink.metrics)
        wait_until(lambda exports=exports: len(stage.sink.metrics) > exports, "an export in between")
    assert truth == requests_of(scrape(port))


def test_a_port_that_is_taken_ends_the_start_with_the_setting(stage: Stage) -> None:
    server = stage.server("nginx")
    settings = {"OTEL_EBPF_OPEN_PORT": str(server.port), "OTEL_EBPF_PROMETHEUS_PORT": f"127.0.0.1:{server.port}"}
    agent = start_agent(stage.new_folder("agent"), stage.sink, settings)
    try:
        agent.wait_until_ended()
    finally:
        kill_session(agent.process)

    assert 0 != agent.process.returncode
    assert f"cannot listen at 127.0.0.1, port {server.port}: Address already in use" in agent.messages
    assert "OTEL_EBPF_PROMETHEUS_PORT" in agent.messages


def health(port: int, path: str) -> tuple[int, dict[str, Any]]:
    status, _, body = get(port, path)
    return status, json.loads(body) if body else {}


def test_health_says_when_the_agent_is_ready_and_why_not(stage: Stage) -> None:
    """From the first moment on: alive while it compiles, ready once it watches."""
    server, port = stage.server("nginx"), free_port()
    settings = {
        "OTEL_EBPF_OPEN_PORT": str(server.port),
        "OTEL_EBPF_HEALTH_CHECK_PORT": f"127.0.0.1:{port}",
        "OTEL_EBPF_PROMETHEUS_PORT": f"127.0.0.1:{port}",
    }
    agent = start_agent(stage.new_folder("agent"), stage.sink, settings)  # with a cache of its own, so it compiles
    try:
        status, told = wait_until(lambda: (found := health(port, "/readyz"))[0] and found, "somebody answers")
        assert (503, ["starting: the programs are being compiled and loaded"]) == (status, told["why_not"])
        assert 200 == health(port, "/livez")[0]

        agent.wait_until_ready()
        wait_until(lambda: health(port, "/readyz")[0] == 200, "it is ready")
        told = health(port, "/readyz")[1]
        assert (True, []) == (told["ok"], told["why_not"])
        assert hooks_in_use() == told["hooks"].split(", ")[0]  # probes on what nginx has mapped stand behind
        assert 200 == get(port, "/metrics")[0]  # both at one port

        agent.stop()
    finally:
        kill_session(agent.process)
    assert 0 == agent.process.returncode, agent.messages
