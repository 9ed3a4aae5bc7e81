"""What Jaeger knows of the shop, as text.

In:   traces, as Jaeger's /api/traces has them
Out:  a table of requests, and one trace as a tree
Owns: nothing
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

Trace = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """One span."""

    service: str
    kind: str
    name: str
    is_error: bool
    duration_us: int
    start_us: int
    target: str
    status: str

    @property
    def what(self) -> str:
        """A call is named by its method alone: whom it went to stands in its URL."""
        return f"{self.name} {urlsplit(self.target).netloc}" if self.kind == "client" else self.name


def spans_of(trace: Trace) -> list[Seen]:
    found = []
    for span in trace["spans"]:
        tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        found.append(
            Seen(
                service=trace["processes"][span["processID"]]["serviceName"],
                kind=tags["span.kind"],
                name=span["operationName"],
                is_error=bool(tags.get("error", False)),
                duration_us=span["duration"],
                start_us=span["startTime"],
                target=tags.get("url.full") or tags.get("url.path", ""),
                status=str(tags.get("http.response.status_code", tags.get("error.type", ""))),
            )
        )
    return sorted(found, key=lambda seen: seen.start_us)


def table(spans: Iterable[Seen]) -> str:
    """One line for each kind of request, those that are served (→) before those that are made (←)."""
    groups: dict[tuple[str, str, str], list[Seen]] = defaultdict(list)
    for span in spans:
        groups[span.service, "←" if span.kind == "client" else "→", span.what].append(span)
    lines = [f"  {'service':<9} {'':1} {'request':<22} {'seen':>7} {'errors':>7} {'median':>10}"]
    for (service, arrow, name), members in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] == "←", item[0][2])
    ):
        errors = sum(span.is_error for span in members)
        middle_ms = median(span.duration_us for span in members) / 1000
        lines.append(f"  {service:<9} {arrow} {name:<22} {len(members):>7} {errors:>7} {middle_ms:>7.1f} ms")
    return "\n".join(lines)


def tree(trace: Trace) -> str:
    """The spans of one trace in the order in which they began; what lies within another one is indented."""
    spans = spans_of(trace)
    lines = []
    for span in spans:
        end_us = span.start_us + span.duration_us
        depth = sum(
            other is not span and other.start_us <= span.start_us and end_us <= other.start_us + other.duration_us
            for other in spans
        )
        arrow = "←" if span.kind == "client" else "→"
        lines.append(
            f"  {'  ' * depth}{span.service} {arrow} {span.name}  {span.status}  {span.duration_us / 1000:.1f} ms  {span.target}"
        )
    return "\n".join(lines)


def most_telling(traces: Iterable[Trace]) -> Trace | None:
    """The one with most spans; among those the newest."""
    return max(traces, key=lambda trace: (len(trace["spans"]), trace["spans"][0]["startTime"]), default=None)
