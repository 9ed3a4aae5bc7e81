"""What the agent says of itself: its queue, its exports, its ring, its processes, and the ledger of the host.

In:   the parts of the agent, read where they are; the ledger's standing, from the snapshot
Out:  ResourceMetrics of the agent's own Resource
Owns: names, the metrics SDK's where there are such (conventions, "OpenTelemetry SDK metrics"), else `otel_ebpf.*`

Read in the thread that exports: what is read here is a whole number, or a list that its owner replaces.
"""

import os
import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
from opentelemetry.sdk.metrics.export import Metric, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version

from otel_ebpf.export.metrics_sender import MetricsSender
from otel_ebpf.export.operations import Operations
from otel_ebpf.export.otlp import SCHEMA_URL, SCOPE_NAME
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.sender import Sender
from otel_ebpf.export.snapshots import Snapshot
from otel_ebpf.export.standings import metrics_of_standing
from otel_ebpf.export.sums import Labelled, Period, counter, gauge, histogram, up_down_counter
from otel_ebpf.otlp_settings import GRPC, OtlpSettings
from otel_ebpf.records.kinds import Counter, Kind
from otel_ebpf.records.ring import RingReader
from otel_ebpf.telemetry.differences import Differences
from otel_ebpf.telemetry.histograms import ExplicitHistogram
from otel_ebpf.telemetry.resource import DISTRO_NAME, HostFacts

_PROCESSOR = {"otel.component.name": "batching_span_processor/0", "otel.component.type": "batching_span_processor"}
_KINDS = tuple((int(kind), kind.name.lower()) for kind in Kind)
_RESOURCE = b"the agent"


class SelfMetrics:
    def __init__(self, version: str, host: HostFacts, sender: Sender | None) -> None:
        """To be made in the exporter, as a child of the probe."""
        self.metrics_sender: MetricsSender | None = None
        self.pipeline: Pipeline | None = None
        self.ring: RingReader | None = None
        self._sender = sender
        self._start_unix_ns = time.time_ns()
        self._resource = Resource(_attributes(version, host), SCHEMA_URL)
        self._scope = InstrumentationScope(SCOPE_NAME, version, SCHEMA_URL)
        self._processes = {"exporter": psutil.Process(), "probe": psutil.Process(os.getppid())}

    def read(self, snapshot: Snapshot, differences: Differences | None = None) -> list[ResourceMetrics]:
        period = Period(self._start_unix_ns, snapshot.at_unix_ns, _RESOURCE, differences)
        metrics = [*self._of_spans(period), *self._of_measurements(period), *self._of_processes(period)]
        metrics.append(self._of_requests(period))
        if self.pipeline is not None and self.ring is not None:
            metrics += self._of_pipeline(self.pipeline, self.ring, period)
        if snapshot.host is not None:
            metrics += metrics_of_standing(snapshot.host, period, "otel_ebpf.host")
        scope = ScopeMetrics(self._scope, [metric for metric in metrics if metric.data.data_points], SCHEMA_URL)
        return [ResourceMetrics(self._resource, [scope], SCHEMA_URL)]

    def _of_spans(self, period: Period) -> Iterator[Metric]:
        if self._sender is None:
            return
        queue, counts = self._sender.queue, self._sender.counts()
        component = _exporter(self._sender.settings, "span")
        exported: list[Labelled] = [(component, counts.exported)]
        exported.append(({**component, "error.type": "rejected"}, counts.rejected))
        processed: list[Labelled] = [(_PROCESSOR, counts.exported + counts.rejected)]
        processed.append(({**_PROCESSOR, "error.type": "queue_full"}, counts.dropped))
        yield counter("otel.sdk.exporter.span.exported", "{span}", "Spans that left the agent.", exported, period)
        in_flight = max(0, counts.waiting - queue.waiting)
        yield up_down_counter(
            "otel.sdk.exporter.span.inflight", "{span}", "Spans in a request.", [(component, in_flight)], period
        )
        yield counter("otel.sdk.processor.span.processed", "{span}", "Spans that left the queue.", processed, period)
        yield up_down_counter(
            "otel.sdk.processor.span.queue.size", "{span}", "Spans that wait.", [(_PROCESSOR, queue.waiting)], period
        )
        if queue.limit_spans is not None:
            yield up_down_counter(
                "otel.sdk.processor.span.queue.capacity",
                "{span}",
                "Most spans that may wait.",
                [(_PROCESSOR, queue.limit_spans)],
                period,
            )
        yield gauge("otel_ebpf.spool.spans", "{span}", "Spans on the disk.", [({}, counts.on_disk)], period)
        yield gauge("otel_ebpf.queue.usage", "By", "Spans that wait, in bytes.", [({}, queue.size_bytes)], period)
        yield gauge("otel_ebpf.queue.limit", "By", "OTEL_EBPF_QUEUE_BYTES.", [({}, queue.limit_bytes)], period)

    def _of_measurements(self, period: Period) -> Iterator[Metric]:
        sender = self.metrics_sender
        if sender is not None:
            component = _exporter(sender.otlp, "metric")
            exported: list[Labelled] = [(component, sender.exported)]
            exported.append(({**component, "error.type": "rejected"}, sender.rejected))
            yield counter(
                "otel.sdk.exporter.metric_data_point.exported",
                "{data_point}",
                "Data points that left the agent.",
                exported,
                period,
            )
            yield counter(
                "otel_ebpf.metric_exports.failed",
                "{request}",
                "Requests that the collector did not take; what they said is said again.",
                [(component, sender.failed_exports)],
                period,
            )

    def _of_requests(self, period: Period) -> Metric:
        found: list[tuple[dict[str, str | int], ExplicitHistogram]] = []
        exporters: list[tuple[dict[str, str | int], Operations]] = []
        if self._sender is not None:
            exporters.append((_exporter(self._sender.settings, "span"), self._sender.operations))
        if self.metrics_sender is not None:
            exporters.append((_exporter(self.metrics_sender.otlp, "metric"), self.metrics_sender.operations))
        for component, operations in exporters:
            for error, measured in operations.read().items():
                found.append(({**component, "error.type": error} if error else component, measured))
        return histogram("otel.sdk.exporter.operation.duration", "Requests to the collector.", found, period)

    def _of_pipeline(self, pipeline: Pipeline, ring: RingReader, period: Period) -> Iterator[Metric]:
        records: list[Labelled] = [
            ({"otel_ebpf.record.kind": name}, pipeline.records_by_kind[kind]) for kind, name in _KINDS
        ]
        yield counter("otel_ebpf.records", "{record}", "Records that came out of the kernel.", records, period)
        lookups = pipeline.lookups
        results = {
            "taken": lookups.taken,
            "taken_back": lookups.taken_back,
            "forgotten": lookups.forgotten,
            "unreadable": lookups.unreadable,
            "ring_full": pipeline.counters.values[Counter.LOOKUPS_RING_FULL],
            "failed": pipeline.counters.values[Counter.LOOKUPS_FAILED],
        }
        yield counter(
            "otel_ebpf.lookups",
            "{lookup}",
            "Names that were looked up before a connection was made, and those that failed.",
            [({"otel_ebpf.result": result}, count) for result, count in results.items()],
            period,
        )
        yield gauge(
            "otel_ebpf.ring.usage", "By", "What waits between kernel and exporter.", [({}, ring.used_bytes)], period
        )
        yield gauge("otel_ebpf.ring.limit", "By", "OTEL_EBPF_RING_BYTES.", [({}, ring.size_bytes)], period)
        yield from _of_links(pipeline, period)
        hooks = pipeline.hooks
        attached: list[Labelled] = [({"otel_ebpf.hooks": hooks.backend or "none"}, 1 if hooks.backend else 0)]
        if hooks.tls_files:
            attached.append(({"otel_ebpf.hooks": hooks.tls_form}, hooks.tls_files))
        if hooks.lookup_files:
            attached.append(({"otel_ebpf.hooks": hooks.lookup_form}, hooks.lookup_files))
        what = "How system calls are watched, and in how many files there are probes on TLS."
        yield gauge("otel_ebpf.hooks.attached", "{hook}", what, attached, period)
        if pipeline.measuring is not None:
            count = sum(meter.series_count for meter in pipeline.measuring.meters)
            evicted = sum(meter.evicted for meter in pipeline.measuring.meters)
            yield up_down_counter("otel_ebpf.series", "{series}", "Series of measurements.", [({}, count)], period)
            yield counter(
                "otel_ebpf.series.evicted", "{series}", "Series that had to make room.", [({}, evicted)], period
            )

    def _of_processes(self, period: Period) -> Iterator[Metric]:
        """What cannot be read (another user's process, with hidepid) is absent."""
        cpu: list[Labelled] = []
        memory: list[Labelled] = []
        for name, process in self._processes.items():
            try:
                times, resident_bytes = process.cpu_times(), process.memory_info().rss
            except psutil.Error:
                continue
            which = {"otel_ebpf.process": name}
            cpu.append(({**which, "cpu.mode": "user"}, times.user))
            cpu.append(({**which, "cpu.mode": "system"}, times.system))
            memory.append((which, resident_bytes))
        yield counter("otel_ebpf.process.cpu.time", "s", "CPU time of the agent's processes.", cpu, period)
        yield up_down_counter(
            "otel_ebpf.process.memory.usage", "By", "Resident memory of the agent's processes.", memory, period
        )


def _of_links(pipeline: Pipeline, period: Period) -> Iterator[Metric]:
    places, kinship = pipeline.sampler.places, pipeline.assembler.kinship
    found: list[Labelled] = [({"otel_ebpf.evidence.parent": name}, count) for name, count in dict(places.links).items()]
    yield counter(
        "otel_ebpf.links",
        "{link}",
        "Exchanges by what their parents rest on; unknown: calls of services that also serve, without one.",
        found,
        period,
    )
    refused = {} if kinship is None else dict(kinship.refused)
    refused["contradicted by traceparent"] = places.contradictions
    by_reason: list[Labelled] = [({"otel_ebpf.reason": reason}, count) for reason, count in refused.items()]
    yield counter("otel_ebpf.links.refused", "{link}", "Links that were not certain.", by_reason, period)


def _exporter(settings: OtlpSettings, item: str) -> dict[str, str | int]:
    kind = f"otlp_{'grpc' if settings.protocol == GRPC else 'http'}_{item}_exporter"
    parts = urlsplit(settings.endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {
        "otel.component.name": f"{kind}/0",
        "otel.component.type": kind,
        "server.address": parts.hostname or "",
        "server.port": port,
    }


def _attributes(version: str, host: HostFacts) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "service.name": DISTRO_NAME,
        "service.version": version,
        "service.instance.id": str(uuid4()),
        "host.name": host.name,
        "host.id": host.id,
        "host.arch": host.arch,
        "os.type": host.os_type,
        "process.pid": os.getpid(),
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": sdk_version,
        "telemetry.distro.name": DISTRO_NAME,
        "telemetry.distro.version": version,
    }
    return {key: value for key, value in found.items() if value != ""}
