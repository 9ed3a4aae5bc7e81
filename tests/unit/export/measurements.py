"""A measuring pipeline for tests: no kernel, the clock is the test's, questions are answered at once."""

from types import SimpleNamespace
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_ebpf.config import MetricsSettings
from otel_ebpf.exchanges.exchange import OpenRequest
from otel_ebpf.export.ledger_readings import Standing
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.snapshots import Snapshot
from otel_ebpf.otlp_settings import OtlpSettings
from otel_ebpf.setting_values import Listen
from otel_ebpf.telemetry.attributes import KNOWN_METHODS
from otel_ebpf.telemetry.metrics import MeasuredService, Meter

NS = 1_000_000_000
OFFSET_NS = 1_000 * NS  # from the monotonic clock to the wall clock
SHOP = SimpleNamespace(resource=b"shop", attributes={"service.name": "shop", "service.instance.id": "1"})


def metrics_settings(otlp: OtlpSettings | None = None, **changes: Any) -> MetricsSettings:
    plain = {
        "otlp": otlp,
        "prometheus": Listen("127.0.0.1", 9464),
        "prometheus_path": "/metrics",
        "http": ("duration",),
        "interval_ms": 60_000,
        "ttl_ns": 300 * NS,
        "is_exponential": False,
        "temporality": "cumulative",
        "exemplar_filter": "trace_based",
    }
    return MetricsSettings(**{**plain, **changes})


class Measured:
    """What a pipeline does with Measuring, in the test's thread."""

    def __init__(self, settings: MetricsSettings) -> None:
        self.measuring = Measuring(settings, KNOWN_METHODS)
        self.open: list[OpenRequest] = []
        self.standings: list[Standing] = []
        self.begin_tick(0)

    def begin_tick(self, now_seconds: float) -> None:
        self.measuring.begin_tick(int(now_seconds * NS), OFFSET_NS)

    def record(self, *exchanges: Any, span: tuple[bytes, bytes] | None = None, service: MeasuredService = SHOP) -> None:
        for exchange in exchanges:
            self.measuring.record(service, exchange, None, span)

    def snapshot(self, meter: Meter) -> Snapshot:
        active = self.measuring.count_active(lambda: self.open, lambda pid: SHOP)
        return Snapshot(self.measuring.now_unix_ns, self.measuring.offset_ns, meter.read(), active, self.standings)


def points_of(request: ExportMetricsServiceRequest) -> dict[str, list[Any]]:
    """The data points of each metric, of all resources."""
    found: dict[str, list[Any]] = {}
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.setdefault(metric.name, []).extend(getattr(metric, str(metric.WhichOneof("data"))).data_points)
    return found


def plain(point: Any) -> dict[str, Any]:
    """A point's attributes."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in point.attributes}
