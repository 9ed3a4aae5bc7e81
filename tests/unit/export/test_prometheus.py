"""Pages as Prometheus reads them: prometheus_client's own parsers are the judges."""

from typing import Any

import pytest
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from otel_ebpf.export.metrics_data import MetricsDataBuilder
from otel_ebpf.export.prometheus import PrometheusPage, label_name, labels_of, metric_name
from tests.unit.export.measurements import NS, OFFSET_NS, Measured, metrics_settings
from tests.unit.export.test_metrics_data import open_request
from tests.unit.telemetry.examples import client_exchange, exchange

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
TRACE_ID, SPAN_ID = bytes(range(16)), bytes(range(8))
DURATION = "http_server_request_duration_seconds"


def scraped(measured: Measured, accept: str = OPENMETRICS) -> dict[str, Family]:
    meter = measured.measuring.for_prometheus
    assert meter is not None
    desk = measured.measuring.desk
    desk.ask = lambda meter, timeout_seconds: measured.snapshot(meter)  # type: ignore[method-assign]  # in one thread
    page = PrometheusPage(meter, desk, MetricsDataBuilder("1.2.3", OFFSET_NS)).make(accept)
    assert 200 == page.status
    parse = parse_openmetrics if page.content_type.startswith("application/openmetrics-text") else parse_text
    return {family.name: family for family in parse(page.body.decode())}


def values(family: Family, suffix: str = "") -> list[tuple[dict[str, str], float]]:
    return [(sample.labels, sample.value) for sample in family.samples if sample.name == family.name + suffix]


def measured_one(**settings: Any) -> Measured:
    measured = Measured(metrics_settings(**settings))
    measured.begin_tick(5)
    measured.record(exchange(request_start_ns=NS, end_ns=NS + 3_000_000), span=(TRACE_ID, SPAN_ID))
    measured.record(exchange(request_start_ns=NS, end_ns=NS + 30_000_000), span=None)
    return measured


@pytest.mark.parametrize("accept", [OPENMETRICS, "", "text/plain", "application/openmetrics-text", "a;version=x;q"])
def test_a_histogram_is_one_in_either_form(accept: str) -> None:
    """Buckets add up, `le` and seconds; each point says whose it is."""
    family = scraped(measured_one(), accept)[DURATION]

    labels = {
        "job": "shop",
        "instance": "1",
        "otel_scope_name": "otel-ebpf",
        "otel_scope_version": "1.2.3",
        "http_request_method": "GET",
        "http_response_status_code": "200",
        "network_protocol_version": "1.1",
        "url_scheme": "http",
    }
    assert "histogram" == family.type
    assert [(labels, 2)] == values(family, "_count")
    assert [(labels, 0.033)] == values(family, "_sum")
    buckets = {found["le"]: count for found, count in values(family, "_bucket")}
    assert {"0.005": 1, "0.01": 1, "0.025": 1, "0.05": 2, "10.0": 2, "+Inf": 2}.items() <= buckets.items()
    assert 15 == len(buckets)


def test_an_exemplar_names_the_span_of_its_bucket() -> None:
    family = scraped(measured_one())[DURATION]

    found = {sample.labels["le"]: sample.exemplar for sample in family.samples if sample.exemplar}
    (bucket,) = found
    assert "0.005" == bucket
    assert {"trace_id": TRACE_ID.hex(), "span_id": SPAN_ID.hex()} == found[bucket].labels
    assert (0.003, pytest.approx(OFFSET_NS / NS + 1.003)) == (found[bucket].value, float(found[bucket].timestamp))


def test_the_resource_is_target_info() -> None:
    measured = measured_one()
    of_service = scraped(measured)["target"]

    assert "info" == of_service.type
    assert [({"job": "shop", "instance": "1"}, 1)] == values(of_service, "_info")


def test_metrics_of_all_services_are_one_family() -> None:
    """A name that appears twice would make the page unreadable: the strict parser refuses it."""
    measured = measured_one(http=("duration", "body_size", "active_requests"))
    other = type(
        "Other",
        (),
        {"resource": b"bank", "attributes": {"service.name": "bank", "service.namespace": "city", "host.name": "h"}},
    )()
    measured.record(exchange(), client_exchange(), service=other)
    measured.open = [open_request()]
    found = scraped(measured)

    assert [("shop", 2), ("city/bank", 1)] == [
        (labels["job"], count) for labels, count in values(found[DURATION], "_count")
    ]
    assert [
        ({"job": "shop", "instance": "1"}, 1),
        ({"job": "city/bank", "host_name": "h"}, 1),
    ] == values(found["target"], "_info")
    assert {
        DURATION,
        "target",
        "http_client_request_duration_seconds",
        "http_server_request_body_size_bytes",
        "http_server_response_body_size_bytes",
        "http_client_request_body_size_bytes",
        "http_client_response_body_size_bytes",
        "http_server_active_requests",
    } == found.keys()
    active = found["http_server_active_requests"]
    assert ("gauge", [1]) == (active.type, [count for _, count in values(active)])


def test_nothing_measured_is_an_empty_page() -> None:
    assert {} == scraped(Measured(metrics_settings()))


def test_text_that_services_choose_is_escaped() -> None:
    measured = Measured(metrics_settings())
    odd = 'a"b\\c\nd,é'
    service = type("Odd", (), {"resource": b"odd", "attributes": {"service.name": odd, "x-y": odd}})()
    measured.record(exchange(), service=service)

    for accept in (OPENMETRICS, ""):
        assert {"job": odd, "x_y": odd} == next(
            sample.labels for sample in scraped(measured, accept)["target_info" if not accept else "target"].samples
        )


def test_a_pipeline_that_does_not_answer_is_no_empty_page() -> None:
    """Prometheus marks the target as down, instead of taking the series for gone."""
    measured = Measured(metrics_settings())
    measured.measuring.desk.ask = lambda meter, timeout_seconds: None  # type: ignore[method-assign]
    meter = measured.measuring.for_prometheus
    assert meter is not None

    page = PrometheusPage(meter, measured.measuring.desk, MetricsDataBuilder("1", 0)).make(OPENMETRICS)
    assert 503 == page.status


def test_names_follow_the_compatibility_specification() -> None:
    """Runs of what Prometheus does not take are one underscore, a first digit is no beginning."""
    assert ("http_route", "key_0a", "a_b") == (label_name("http.route"), label_name("0a"), label_name("a..b"))
    assert "otel_ebpf_ring_size" == metric_name("otel_ebpf.ring.size")
    assert {"a_b": "1;2", "flag": "true"} == labels_of({"a_b": 2, "a.b": 1, "flag": True})
