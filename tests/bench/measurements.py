"""Measurements per second of CPU time: the agent's aggregation, and `histogram.record` of the metrics SDK in the same run.

In:   nothing
Out:  lines on standard output
Owns: nothing

A measurement is one exchange, with its service, route and attributes, put into a histogram with the conventions' buckets.
`make bench` runs this; alone: .venv/bin/python -m tests.bench.measurements
"""

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.telemetry.metrics import DURATION_BOUNDS_NS, NS_PER_SECOND, Meter, MeterOptions
from tests.unit.telemetry.examples import exchange

EXCHANGES = 20_000
REPEATS = 7
SERVICE = SimpleNamespace(resource=bytes(400), attributes={"service.name": "shop"})
EXEMPLAR = (bytes(16), bytes(8))
ROUTES = [b"/items/{id}", b"/users/{id}/orders", b"/"]
STATUSES = [200] * 17 + [201, 404, 500]
Case = tuple[Exchange, bytes]


def cases() -> list[Case]:
    """60 series; durations from 0 to 50 ms."""
    return [
        (
            exchange(
                target=b"/items/%d" % number,
                status=STATUSES[number % len(STATUSES)],
                request_start_ns=number,
                end_ns=number + number * 7919 % 50_000_000,
            ),
            ROUTES[number % len(ROUTES)],
        )
        for number in range(EXCHANGES)
    ]


def by_meter(options: MeterOptions) -> Callable[[list[Case]], None]:
    meter = Meter(options)
    meter.begin_tick(time.time_ns())

    def run(found: list[Case]) -> None:
        record = meter.record
        for one, route in found:
            record(SERVICE, one, route, EXEMPLAR)

    return run


def by_sdk() -> Callable[[list[Case]], None]:
    """As an instrumentation does it: a dictionary of attributes for each request."""
    provider = MeterProvider([InMemoryMetricReader()])
    histogram = provider.get_meter("bench").create_histogram(
        "http.server.request.duration",
        "s",
        explicit_bucket_boundaries_advisory=[bound / NS_PER_SECOND for bound in DURATION_BOUNDS_NS],
    )

    def run(found: list[Case]) -> None:
        for one, route in found:
            histogram.record(
                (one.end_ns - one.request_start_ns) / NS_PER_SECOND,
                {
                    "http.request.method": one.method.decode(),
                    "url.scheme": "http",
                    "http.response.status_code": one.status or 0,
                    "http.route": route.decode(),
                    "network.protocol.version": one.version.decode(),
                },
            )

    return run


def report() -> None:
    found = cases()
    print(f"\nMeasurements per second of CPU time, median of {REPEATS} runs of {EXCHANGES:,}")
    rows = {
        "durations, the conventions' buckets, exemplars": (by_meter(MeterOptions()), 1),
        "the same, exponential": (by_meter(MeterOptions(is_exponential=True)), 1),
        "durations and both body sizes": (by_meter(MeterOptions(are_sizes_measured=True)), 3),
        "the SDK's histogram.record": (by_sdk(), 1),
    }
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(REPEATS):
        for name, (run, _) in rows.items():
            before = time.process_time()
            run(found)
            taken[name].append(time.process_time() - before)
    for name, (_, each) in rows.items():
        seconds = statistics.median(taken[name]) / EXCHANGES
        print(f"  {name:48} {each / seconds:12,.0f}   {seconds * 1e6:6.2f} µs an exchange")


if __name__ == "__main__":
    report()
