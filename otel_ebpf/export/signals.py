"""What differs between sending spans and sending metrics.

In:   nothing
Out:  TRACES_SIGNAL, METRICS_SIGNAL
Owns: nothing

The exporters' classes are named, not imported: those of metrics bring the metrics SDK, which not every agent needs.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

Response = type[ExportTraceServiceResponse] | type[ExportMetricsServiceResponse]


@dataclass(frozen=True, slots=True)
class Signal:
    items: str  # for people
    response: Response
    grpc_method: str
    module: str
    exporter: str

    def exporter_class(self, protocol: str) -> Any:
        """The official exporter; `protocol` is "http" or "grpc"."""
        return getattr(import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{self.module}"), self.exporter)


TRACES_SIGNAL = Signal(
    "spans",
    ExportTraceServiceResponse,
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "trace_exporter",
    "OTLPSpanExporter",
)
METRICS_SIGNAL = Signal(
    "metrics",
    ExportMetricsServiceResponse,
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "metric_exporter",
    "OTLPMetricExporter",
)
