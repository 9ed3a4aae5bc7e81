"""Gives each exchange to all who measure: one meter serves both exporters, unless they want different forms.

In:   exchanges, in the pipeline's thread; settings
Out:  meters, and the desk where other threads ask for what they hold
Owns: the meters
"""

from collections.abc import Callable
from dataclasses import replace

from otel_ebpf.config import MetricsSettings
from otel_ebpf.exchanges.exchange import Exchange, OpenRequest
from otel_ebpf.export.snapshots import Desk
from otel_ebpf.telemetry.active_requests import ActiveCount, ActiveRequests
from otel_ebpf.telemetry.metrics import MeasuredService, Meter, MeterOptions

_EXPIRE_EVERY_NS = 10_000_000_000


class Measuring:
    """`for_otlp` and `for_prometheus` are None where nobody asks."""

    def __init__(self, settings: MetricsSettings, known_methods: frozenset[bytes]) -> None:
        self.desk = Desk()
        self.for_otlp: Meter | None = None
        self.for_prometheus: Meter | None = None
        # A series must be exported before it is forgotten.
        self.ttl_ns = ttl_ns = max(settings.ttl_ns, 2 * settings.interval_ms * 1_000_000)
        totals = MeterOptions("body_size" in settings.http, ttl_ns=ttl_ns, known_methods=known_methods)
        if settings.otlp is not None:
            is_delta = settings.temporality != "cumulative"
            self.for_otlp = Meter(replace(totals, is_exponential=settings.is_exponential, is_delta=is_delta))
        if settings.prometheus is not None:
            is_shared = self.for_otlp is not None and self.for_otlp.options == totals
            self.for_prometheus = self.for_otlp if is_shared else Meter(totals)
        found = (self.for_otlp, self.for_prometheus)
        self.meters: list[Meter] = list({id(meter): meter for meter in found if meter is not None}.values())
        self.now_unix_ns = self.offset_ns = 0  # of this pass
        self._expired_at_ns = 0
        self._has_exemplars = settings.exemplar_filter != "always_off"
        self._active = ActiveRequests(known_methods, ttl_ns) if "active_requests" in settings.http else None

    def begin_tick(self, now_ns: int, offset_ns: int) -> None:
        """`offset_ns`: the wall clock minus CLOCK_MONOTONIC."""
        self.now_unix_ns, self.offset_ns = now_ns + offset_ns, offset_ns
        is_time_to_expire = now_ns - self._expired_at_ns >= _EXPIRE_EVERY_NS
        for meter in self.meters:
            meter.begin_tick(self.now_unix_ns)
            if is_time_to_expire:
                meter.expire()
        if is_time_to_expire:
            self._expired_at_ns = now_ns

    def record(
        self, service: MeasuredService, exchange: Exchange, route: bytes | None, span: tuple[bytes, bytes] | None
    ) -> None:
        """`span`: the ids of one that is kept."""
        if not self._has_exemplars:
            span = None
        for meter in self.meters:
            meter.record(service, exchange, route, span)

    def count_active(
        self, open_requests: Callable[[], list[OpenRequest]], find: Callable[[int], MeasuredService]
    ) -> list[ActiveCount]:
        """`find` gives the service of a service_pid."""
        return [] if self._active is None else self._active.look(open_requests(), find, self.now_unix_ns)
