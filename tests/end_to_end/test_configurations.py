"""Every file of collector-config/ is accepted by the program it is for, or says what it needs and is checked without that."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.backends import CONFIGURATIONS, collector_program, jaeger_program
from tests.services.processes import environment

SPAN_METRICS = "span-metrics.yaml"
# What is given to one collector together.
FOR_THE_COLLECTOR = [
    ["debug.yaml"],
    ["jaeger/collector.yaml"],
    ["grafana/collector.yaml"],
    ["kafka/node.yaml"],
    ["kafka/gateway.yaml"],
    ["kafka/gateway.yaml", SPAN_METRICS],
    ["load-balancing/gateway.yaml"],
    ["load-balancing/gateway.yaml", SPAN_METRICS],
]
FOR_JAEGER = ["jaeger/jaeger.yaml"]
# File: what it says that it needs.
FOR_OTHERS = {
    "load-balancing/node.yaml": "The load_balancing exporter is in the contrib distribution",
    "grafana/compose.yaml": "Needs Docker",
    "grafana/tempo.yaml": "Needs Grafana Tempo",
    "grafana/prometheus.yaml": "Needs Prometheus",
    "grafana/provisioning/datasources/datasources.yaml": "Needs Grafana",
    "grafana/provisioning/dashboards/dashboards.yaml": "Needs Grafana",
}
CHECKED_ELSEWHERE = {
    "README.md",
    "grafana/dashboards/http-services.json",  # test_grafana.py
}
NAMES = environment(NODE_NAME="node-1", GATEWAY_NAME="gateway-1", GATEWAYS="gateways.internal")


def validated(program: str, files: list[Path]) -> tuple[int, str]:
    command = [program, "validate", *(f"--config={file}" for file in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=NAMES)
    return done.returncode, done.stderr


def loaded(name: str) -> Any:
    return yaml.safe_load((CONFIGURATIONS / name).read_text())


@pytest.mark.parametrize("names", FOR_THE_COLLECTOR, ids=" + ".join)
def test_collector_accepts_its_configuration(names: list[str]) -> None:
    assert (0, "") == validated(collector_program(), [CONFIGURATIONS / name for name in names])


@pytest.mark.parametrize("name", FOR_JAEGER)
def test_jaeger_accepts_its_configuration(name: str) -> None:
    status, said = validated(jaeger_program(), [CONFIGURATIONS / name])

    assert 0 == status, said


def test_collector_refuses_a_setting_that_is_none(tmp_path: Path) -> None:
    """The control: validation looks at settings, not at the form alone."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((CONFIGURATIONS / "debug.yaml").read_text().replace("verbosity", "loudness"))

    status, said = validated(collector_program(), [wrong])

    assert 1 == status
    assert "has invalid keys: loudness" in said


def test_load_balancing_node_lacks_nothing_but_that_exporter(tmp_path: Path) -> None:
    """It is not to be had as a module. With the exporter that it wraps in its place, the rest is accepted."""
    document = loaded("load-balancing/node.yaml")
    wrapper = document["exporters"].pop("load_balancing")
    document["exporters"]["otlp_grpc"] = {
        "endpoint": "gateways.internal:4317",
        **wrapper["protocol"]["otlp"],
        **{name: wrapper[name] for name in ("retry_on_failure", "sending_queue")},
    }
    pipelines = document["service"]["pipelines"]
    assert ["load_balancing"] == pipelines["traces"]["exporters"]
    pipelines["traces"]["exporters"] = ["otlp_grpc"]
    without = tmp_path / "node.yaml"
    without.write_text(yaml.safe_dump(document))

    status, said = validated(collector_program(), [CONFIGURATIONS / "load-balancing" / "node.yaml"])

    assert 1 == status
    assert "'exporters' unknown type: \"load_balancing\"" in said
    assert (0, "") == validated(collector_program(), [without])
    assert {"resolver", "routing_key", "protocol", "retry_on_failure", "sending_queue"} == wrapper.keys()


@pytest.mark.parametrize("name", FOR_OTHERS)
def test_file_for_another_program_says_which(name: str) -> None:
    text = (CONFIGURATIONS / name).read_text()
    comment = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))

    assert FOR_OTHERS[name] in comment
    assert isinstance(loaded(name), dict)


def test_no_file_is_left_out() -> None:
    """A new one is checked, or is named as what cannot be."""
    known = (
        {name for names in FOR_THE_COLLECTOR for name in names} | {*FOR_JAEGER} | FOR_OTHERS.keys() | CHECKED_ELSEWHERE
    )
    there = {str(path.relative_to(CONFIGURATIONS)) for path in CONFIGURATIONS.rglob("*") if path.is_file()}

    assert known == there


def test_gateways_of_both_ways_decide_alike() -> None:
    """With and without Kafka the same traces are kept."""
    first, second = loaded("kafka/gateway.yaml"), loaded("load-balancing/gateway.yaml")

    assert first["processors"] == second["processors"]
    assert first["exporters"] == second["exporters"]


def test_spans_are_counted_alike_everywhere() -> None:
    assert loaded("grafana/collector.yaml")["connectors"] == loaded(SPAN_METRICS)["connectors"]
