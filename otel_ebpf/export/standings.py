"""The ledger's standings as metrics.

In:   Standing
Out:  Metric
Owns: their names

began = the sum of the results + open: so the share of requests that gave no span, and why, is a division away.
"""

from opentelemetry.sdk.metrics.export import Metric

from otel_ebpf.export.ledger_readings import Standing
from otel_ebpf.export.sums import Period, counter, up_down_counter


def metrics_of_standing(standing: Standing, period: Period, prefix: str = "otel_ebpf") -> list[Metric]:
    results = [({"otel_ebpf.result": result}, count) for result, count in standing.results.items()]
    found = [
        counter(
            f"{prefix}.requests.began", "{request}", "Requests that began on the wire.", [({}, standing.began)], period
        ),
        counter(
            f"{prefix}.requests.results",
            "{request}",
            "What became of requests: a span, or why there is none.",
            results,
            period,
        ),
        up_down_counter(
            f"{prefix}.requests.open", "{request}", "Requests that have not ended.", [({}, standing.open)], period
        ),
        up_down_counter(
            f"{prefix}.processes", "{process}", "Processes that are watched.", [({}, standing.processes)], period
        ),
    ]
    if standing.not_visible:
        seen = [({"otel_ebpf.kind": kind}, count) for kind, count in standing.not_visible.items()]
        found.append(counter(f"{prefix}.not_visible", "{event}", "What was noticed and cannot be read.", seen, period))
    return found
