"""Traces for the Kafka tier, as the agent's own encoder writes them, and their way to the node collectors.

In:   how many
Out:  posts: the spans of each trace are spread over several of them, and so over nodes; what has been accepted
Owns: its threads

Some traces have a span with an error: those tail sampling must keep, so a lost one shows.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import urllib3

from otel_ebpf.export.otlp import SpanEncoder, encode_batch, encode_resource, encode_scope
from otel_ebpf.telemetry.places import ROOT_FLAGS
from otel_ebpf.telemetry.spans import Series, SpanData

SPANS_OF_A_TRACE = 5
SPANS_OF_A_POST = 25
FAILED_ONE_IN = 10
# The spans of one trace leave within so many others, as in life: they do not come together, nor hours apart.
SCATTER = 200
SECONDS_TO_ACCEPT = 120.0
SERVICES = ("front", "orders", "catalog")


@dataclass(frozen=True)
class Trace:
    trace_id: bytes
    span_ids: tuple[bytes, ...]
    is_failed: bool


def make_traces(count: int, randomness: random.Random) -> list[Trace]:
    return [
        Trace(
            randomness.randbytes(16),
            tuple(randomness.randbytes(8) for _ in range(SPANS_OF_A_TRACE)),
            number % FAILED_ONE_IN == 0,
        )
        for number in range(count)
    ]


def posts_of(traces: Sequence[Trace], randomness: random.Random) -> list[bytes]:
    """ExportTraceServiceRequests, in the order in which they leave."""
    places = [(trace, place) for trace in traces for place in range(SPANS_OF_A_TRACE)]
    order = sorted(range(len(places)), key=lambda at: at + randomness.random() * SCATTER)
    encoder, scope = SpanEncoder(), encode_scope("test")
    resources = {name: encode_resource({"service.name": name}) for name in SERVICES}
    good, bad = (Series(b"GET", 2, is_error, (("http.request.method", b"GET"),)) for is_error in (False, True))
    found = []
    for begin in range(0, len(order), SPANS_OF_A_POST):
        groups: dict[str, list[bytes]] = {}
        for at in order[begin : begin + SPANS_OF_A_POST]:
            trace, place = places[at]
            series = bad if trace.is_failed and place == SPANS_OF_A_TRACE - 1 else good
            parent = trace.span_ids[place - 1] if place else b""
            now_ns = time.time_ns()
            span = SpanData(
                series=series,
                trace_id=trace.trace_id,
                span_id=trace.span_ids[place],
                parent_span_id=parent,
                trace_state=b"",
                flags=ROOT_FLAGS,
                start_unix_ns=now_ns,
                end_unix_ns=now_ns + 1_000_000,
                attributes=(("url.path", b"/items/%d" % place),),
                dropped_attributes_count=0,
            )
            groups.setdefault(SERVICES[place % len(SERVICES)], []).append(encoder.encode_span(span))
        found.append(encode_batch([(resources[name], spans) for name, spans in groups.items()], scope))
    return found


class Sending:
    """Posts in turn to each node, one thread a node; what a node does not accept is offered to it again."""

    def __init__(self, posts: Sequence[bytes], nodes: Sequence[str], *, pause_s: float = 0.0) -> None:
        self.accepted = 0
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._send, args=(node, posts[at :: len(nodes)], pause_s))
            for at, node in enumerate(nodes)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        assert [] == self.failures

    def _send(self, node: str, posts: Sequence[bytes], pause_s: float) -> None:
        with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(10)) as pool:
            for body in posts:
                deadline = time.monotonic() + SECONDS_TO_ACCEPT
                while not is_accepted(pool, node, body):
                    if time.monotonic() > deadline:
                        self.failures.append(f"{node} did not accept a post within {SECONDS_TO_ACCEPT} s")
                        return
                    time.sleep(0.05)
                with self._lock:
                    self.accepted += 1
                time.sleep(pause_s)


def is_accepted(pool: urllib3.PoolManager, node: str, body: bytes) -> bool:
    try:
        headers = {"Content-Type": "application/x-protobuf"}
        return pool.request("POST", f"{node}/v1/traces", body=body, headers=headers).status == 200
    except urllib3.exceptions.HTTPError:
        return False
