"""All that is done with measurements, in one place: who measures, who sends, who is scraped.

In:   settings
Out:  `measuring` for the pipeline, the page for Prometheus
Owns: the sender's thread

Made while files can be read, started after rights were dropped.
"""

import time

from otel_ebpf import __version__
from otel_ebpf.config import MetricsSettings
from otel_ebpf.export.attempts import Report
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.metrics_data import MetricsDataBuilder
from otel_ebpf.export.metrics_sender import MetricsSender
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.pages import MakePage
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.self_metrics import SelfMetrics
from otel_ebpf.export.sender import Sender
from otel_ebpf.export.snapshots import Take
from otel_ebpf.records.ring import RingReader
from otel_ebpf.telemetry.resource import HostFacts


class MetricsOutput:
    def __init__(
        self,
        settings: MetricsSettings,
        known_methods: frozenset[bytes],
        report: Report,
        host: HostFacts,
        span_sender: Sender | None,
    ) -> None:
        self.own = SelfMetrics(__version__, host, span_sender)
        self.measuring = measuring = Measuring(settings, known_methods)
        self.sender: MetricsSender | None = None
        if settings.otlp is not None and measuring.for_otlp is not None:
            meter, desk, read = measuring.for_otlp, measuring.desk, self.own.read
            self.sender = MetricsSender(settings, settings.otlp, meter, desk, __version__, report, read)
            self.own.metrics_sender = self.sender
        self.pages: dict[str, MakePage] = {}
        if measuring.for_prometheus is not None:
            from otel_ebpf.export.prometheus import PrometheusPage  # with prometheus_client, only where it is wanted

            builder = MetricsDataBuilder(__version__, time.time_ns())
            page = PrometheusPage(measuring.for_prometheus, measuring.desk, builder, self.own.read)
            self.pages[settings.prometheus_path] = page.make

    def start(self, pipeline: Pipeline, ring: RingReader) -> None:
        """`pipeline`, `ring`: what the agent tells of itself."""
        self.own.pipeline, self.own.ring = pipeline, ring
        if self.sender is not None:
            self.sender.start()

    def own_endpoints(self) -> frozenset[Endpoint]:
        return frozenset() if self.sender is None else self.sender.own_endpoints()

    @property
    def collector_state(self) -> str | None:
        return None if self.sender is None else self.sender.collector_state

    def serve(self, take: Take) -> None:
        """Answers who has asked; between two passes of the pipeline."""
        self.measuring.desk.serve(take)

    def begin_stop(self, take: Take, deadline_seconds: float) -> None:
        self.measuring.desk.close(take)
        if self.sender is not None:
            self.sender.begin_stop(take(self.sender.meter), deadline_seconds)

    def join(self) -> None:
        """Returns within the deadline and a fraction."""
        if self.sender is not None:
            self.sender.join()
