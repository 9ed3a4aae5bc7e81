"""collector-config/grafana/ without Grafana: its collector runs, and serves each metric and label that the dashboard asks for."""

import json
import re
import urllib.request
from typing import Any

import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.end_to_end.backends import CONFIGURATIONS, otlp_collector, written_spans
from tests.end_to_end.stage import Stage
from tests.services.plan import all_calls
from tests.services.processes import free_port, wait_until

GRAFANA = CONFIGURATIONS / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "http-services.json").read_text())
# Histogram families of OpenMetrics end in these; a query names one of them.
METRIC = re.compile(r"\b((?:http|traces)_\w+_(?:count|bucket|total))\b")


def texts_of(part: Any) -> list[str]:
    """Every query of the dashboard."""
    if isinstance(part, dict):
        own = [part[key] for key in ("expr", "definition") if isinstance(part.get(key), str)]
        return own + [text for value in part.values() for text in texts_of(value)]
    return [text for value in part for text in texts_of(value)] if isinstance(part, list) else []


def labels_of(query: str) -> set[str]:
    """Those it selects by and those it groups by, `le` among them."""
    selected = re.findall(r'(\w+)(?:=~|!=|=)"', query)
    grouped = [name for names in re.findall(r"\bby \(([^)]*)\)", query) for name in re.findall(r"\w+", names)]
    return {*selected, *grouped}


def samples_at(address: str) -> list[Sample]:
    accept = "application/openmetrics-text;version=1.0.0"
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    ) as answer:
        text = answer.read().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_collector_serves_what_the_dashboard_asks_for(prefix: str, stage: Stage) -> None:
    """Names, labels, and exemplars with the ids of traces that were sent to Tempo."""
    server = stage.server("go")
    folder = stage.new_folder("collector")
    metrics, output = f"127.0.0.1:{free_port()}", folder / "spans.jsonl"
    values: dict[str, object] = {
        "exporters.prometheus.endpoint": metrics,
        "connectors.span_metrics.metrics_flush_interval": "500ms",
        "exporters.file.path": str(output),  # in the place of Tempo
        "service.pipelines.traces.exporters": ["file", "span_metrics"],
    }
    collector = stage.ends.enter_context(
        otlp_collector(folder, "http/protobuf", [GRAFANA / "collector.yaml"], values, TEMPO="127.0.0.1:1")
    )
    client = stage.client("http.client", server, all_calls(prefix))
    stage.agent(
        sink=collector,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_TARGET_PID=client.pid,
        OTEL_METRIC_EXPORT_INTERVAL="500",
    )
    calls = 2 * len(client.send())  # each is served and made
    seen: list[Sample] = []
    exemplars: set[str] = set()  # each is served until the next flush

    def counted(name: str) -> float:
        return sum(sample.value for sample in seen if sample.name == name)

    def all_are_counted() -> bool:
        seen[:] = samples_at(metrics)
        exemplars.update(sample.exemplar.labels["trace_id"] for sample in seen if sample.exemplar)
        by_agent = counted("http_server_request_duration_seconds_count") + counted(
            "http_client_request_duration_seconds_count"
        )
        return calls == by_agent == counted("traces_span_metrics_calls_total")

    wait_until(all_are_counted, f"{calls} requests, in the agent's metrics and in those made of spans")
    served: dict[str, set[str]] = {}
    for sample in seen:
        served.setdefault(sample.name, set()).update(sample.labels)
    queries = texts_of(DASHBOARD)
    asked = {name for query in queries for name in METRIC.findall(query)}
    assert {"http_server_request_duration_seconds_bucket", "traces_span_metrics_calls_total"} <= asked
    assert set() == asked - served.keys()
    assert [] == [
        f"{query}: {name} has no {missing}"
        for query in queries
        for name in METRIC.findall(query)
        if (missing := labels_of(query) - {"le"} - served[name])
    ]
    wait_until(lambda: len(written_spans(output)) >= calls, "all spans would be in Tempo")
    assert exemplars
    assert exemplars <= {span.trace_id.hex() for span in written_spans(output)}


def test_dots_of_the_dashboard_lead_to_their_traces() -> None:
    """The label that exemplars carry is linked to Tempo, and each panel of durations asks for exemplars."""
    sources = {source["uid"]: source for source in provisioned("datasources")["datasources"]}
    durations = [
        target
        for panel in DASHBOARD["panels"]
        if panel["type"] == "timeseries" and panel["title"].endswith("duration")
        for target in panel["targets"]
    ]

    (link,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert ("trace_id", "tempo") == (link["name"], sources[link["datasourceUid"]]["type"])
    assert durations
    assert [] == [target["expr"] for target in durations if not target.get("exemplar")]
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert used <= sources.keys()


def test_compose_mounts_what_is_there_and_publishes_on_loopback_alone() -> None:
    """Each service that another one's configuration names is one of the file's."""
    services = yaml.safe_load((GRAFANA / "compose.yaml").read_text())["services"]
    mounts = [mount for service in services.values() for mount in service["volumes"] if mount.startswith("./")]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    prometheus = yaml.safe_load((GRAFANA / "prometheus.yaml").read_text())
    (target,) = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    urls = [source["url"] for source in provisioned("datasources")["datasources"]]

    assert [] == [mount for mount in mounts if not (GRAFANA / mount.split(":")[0]).exists()]
    assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]
    assert {"collector:8889", "http://prometheus:9090", "http://tempo:3200"} == {target, *urls}
    assert {"collector", "prometheus", "tempo", "grafana"} == services.keys()
    (provider,) = provisioned("dashboards")["providers"]
    assert f"./dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


def provisioned(what: str) -> Any:
    return yaml.safe_load((GRAFANA / "provisioning" / what / f"{what}.yaml").read_text())
