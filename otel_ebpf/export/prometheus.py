"""MetricsData as Prometheus scrapes it: OpenMetrics with exemplars, or the older text where that is asked for.

In:   MetricsData, cumulative, with explicit histograms
Out:  families, for the encoders of prometheus_client
Owns: names, by the OpenTelemetry specification "Prometheus and OpenMetrics compatibility"

One page holds many services: each point says whose it is by `job` and `instance`, and `target_info` has the rest of the
Resource. Prometheus keeps both labels only with `honor_labels: true`.
"""

import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, Metric, MetricsData, Sum
from opentelemetry.sdk.resources import Resource
from prometheus_client import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from otel_ebpf.export.metrics_data import CUMULATIVE, MetricsDataBuilder
from otel_ebpf.export.pages import Page
from otel_ebpf.export.snapshots import Desk, OwnMetrics, no_own_metrics
from otel_ebpf.telemetry.metrics import Meter

UNITS = {"s": "seconds", "By": "bytes", "1": "ratio"}
IDENTITY = ("service.name", "service.namespace", "service.instance.id")
_PATIENCE_SECONDS = 5.0  # for the pipeline; Prometheus waits for ten
Labels = dict[str, str]


class PrometheusPage:
    """Asks the pipeline at each scrape."""

    def __init__(
        self, meter: Meter, desk: Desk, builder: MetricsDataBuilder, own_metrics: OwnMetrics = no_own_metrics
    ) -> None:
        self._meter = meter
        self._desk = desk
        self._builder = builder
        self._own_metrics = own_metrics
        self._one_at_a_time = threading.Lock()

    def make(self, accept: str) -> Page:
        snapshot = self._desk.ask(self._meter, _PATIENCE_SECONDS)
        if snapshot is None:
            return Page(503, "text/plain; charset=utf-8", b"the agent is busy or ending\n")
        with self._one_at_a_time:  # whoever reaches the port may ask as often as he likes
            data = self._builder.build(snapshot, CUMULATIVE, 0, self._own_metrics(snapshot, None))
            return encode(data, accept)


def encode(data: MetricsData, accept: str) -> Page:
    try:
        encoder, content_type = choose_encoder(accept)
    except ValueError:  # a version that is none
        encoder, content_type = choose_encoder("")
    return Page(200, content_type, encoder(_Families(families(data))))


class _Families(Collector):
    def __init__(self, found: list[Family]) -> None:
        self._found = found

    def collect(self) -> Iterable[Family]:
        return self._found


def families(data: MetricsData) -> list[Family]:
    """One for each metric, of all resources."""
    targets = Family("target", "The Resource of each service.", "info")
    found: dict[str, Family] = {}
    for of_resource in data.resource_metrics:
        identity = _identity(of_resource.resource)
        rest = {key: value for key, value in of_resource.resource.attributes.items() if key not in IDENTITY}
        targets.add_sample("target_info", labels_of(rest) | identity, 1)
        for scope in of_resource.scope_metrics:
            own = {"otel_scope_name": scope.scope.name, "otel_scope_version": scope.scope.version or ""} | identity
            for metric in scope.metrics:
                family = found.get(metric.name) or found.setdefault(metric.name, _family(metric))
                if isinstance(metric.data, Histogram):
                    _add_histogram(family, metric.data.data_points, own)
                else:
                    _add_numbers(family, metric.data.data_points, own)
    return [targets, *found.values()] if targets.samples else []


def _family(metric: Metric) -> Family:
    data = metric.data
    kind = "gauge"
    if isinstance(data, Histogram):
        kind = "histogram"
    elif isinstance(data, Sum) and data.is_monotonic:
        kind = "counter"
    # Units of OpenTelemetry in braces are words for people.
    unit = UNITS.get(metric.unit or "", "") if metric.unit != "1" or kind == "gauge" else ""
    return Family(metric_name(metric.name), metric.description or "", kind, unit)


def _add_histogram(family: Family, points: Iterable[HistogramDataPoint], own: Labels) -> None:
    for point in points:
        labels = labels_of(point.attributes or {}) | own
        exemplars = _by_bucket(point)
        count = 0
        for index, in_bucket in enumerate(point.bucket_counts):
            count += in_bucket
            bounds = point.explicit_bounds
            bound = floatToGoString(bounds[index] if index < len(bounds) else float("inf"))  # type: ignore[no-untyped-call]
            family.add_sample(family.name + "_bucket", labels | {"le": bound}, count, None, exemplars.get(index))
        family.add_sample(family.name + "_count", labels, count)
        family.add_sample(family.name + "_sum", labels, point.sum)


def _add_numbers(family: Family, points: Iterable[Any], own: Labels) -> None:
    name = family.name + ("_total" if family.type == "counter" else "")
    for point in points:
        family.add_sample(name, labels_of(point.attributes or {}) | own, point.value)


def _by_bucket(point: HistogramDataPoint) -> dict[int, Exemplar]:
    """OpenMetrics has one for each bucket."""
    found: dict[int, Exemplar] = {}
    for exemplar in point.exemplars:
        index = sum(bound < exemplar.value for bound in point.explicit_bounds)
        found[index] = Exemplar(_ids(exemplar), exemplar.value, exemplar.time_unix_nano / 1e9)
    return found


def _ids(exemplar: SdkExemplar) -> Labels:
    return {"trace_id": f"{exemplar.trace_id or 0:032x}", "span_id": f"{exemplar.span_id or 0:016x}"}


def _identity(resource: Resource) -> Labels:
    name, namespace, instance = (str(resource.attributes.get(key, "")) for key in IDENTITY)
    labels = {"job": f"{namespace}/{name}" if namespace else name, "instance": instance}
    return {key: value for key, value in labels.items() if value}


def labels_of(attributes: Mapping[str, Any]) -> Labels:
    """Names that become equal share one label, as the specification has it: values joined by semicolons, in order."""
    found: dict[str, list[str]] = {}
    for key in sorted(attributes):
        value = attributes[key]
        text = str(value).lower() if isinstance(value, bool) else str(value)
        found.setdefault(label_name(key), []).append(text)
    return {name: ";".join(values) for name, values in found.items()}


def label_name(key: str) -> str:
    name = re.sub(r"[^a-zA-Z0-9_]+", "_", key)
    return f"key_{name}" if name[:1].isdigit() else name


def metric_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_:]+", "_", name)
