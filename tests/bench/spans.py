"""Spans per second of CPU time, from the kernel's records to bytes posted; and those of the SDK in the same run.

In:   nothing: no kernel, but a ring of the kernel's form, and a collector in another process
Out:  lines on standard output
Owns: the ring, the collector

Ours: the ring is read, requests become exchanges, routes are found, spans are sampled, built, encoded, queued and posted.
The SDK's: `start_span` with the same attributes, `end`, BatchSpanProcessor, OTLP exporter. Neither has to find out more
than that: what puts records into the ring, and what calls the SDK, is not counted, nor is the collector. CPU time is that
of all threads of this process.

`make bench` runs this; alone: .venv/bin/python -m tests.bench.spans
"""

import gc
import mmap
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from otel_ebpf.config import Settings
from otel_ebpf.export.facts import Facts
from otel_ebpf.export.inputs import LiveInputs
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.sender import Sender, SenderOptions
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.records.progress import PROGRESS_TABLE_BYTES, ProgressTable
from otel_ebpf.records.ring import RingReader
from otel_ebpf.telemetry.attributes import KNOWN_METHODS
from otel_ebpf.telemetry.resource import HostFacts
from tests.bench.traffic import HOST, LISTENING_PORT, SERVICE_PIDS, Made, one_path, varied
from tests.end_to_end.sink import http_sink

SPANS, SDK_SPANS, REPEATS = 50_000, 5_000, 5
PER_TICK = 400  # exchanges in one look at the ring: 20,000 a second
RING_BYTES = 1 << 22
QUEUE_BYTES = 1 << 28  # nothing is to be dropped
BATCH_SPANS = 512
METHODS = tuple(method.decode() for method in KNOWN_METHODS)
FACTS = Facts(bytes(32), "bench", HostFacts("bench", "0" * 32, "amd64", "linux"), None, 128, METHODS)


class Ring:
    """Memory of the form of a BPF ring buffer, filled here."""

    def __init__(self) -> None:
        self._file = os.memfd_create("ring")
        os.ftruncate(self._file, 2 * mmap.PAGESIZE + RING_BYTES)
        self._memory = mmap.mmap(self._file, 0)
        self._produced = memoryview(self._memory)[mmap.PAGESIZE : mmap.PAGESIZE + 8].cast("Q")
        self.reader = RingReader(self._file, RING_BYTES)

    def put(self, samples: list[bytes]) -> None:
        """As many as there is room for is the caller's business."""
        at, begin = self._produced[0], 2 * mmap.PAGESIZE
        for sample in samples:
            framed = len(sample).to_bytes(8, "little") + sample
            framed += bytes(-len(framed) % 8)
            place = at % RING_BYTES
            room = min(len(framed), RING_BYTES - place)
            self._memory[begin + place : begin + place + room] = framed[:room]
            self._memory[begin : begin + len(framed) - room] = framed[room:]
            at += len(framed)
        self._produced[0] = at

    def close(self) -> None:
        self.reader.close()
        self._produced.release()
        self._memory.close()
        os.close(self._file)


def ours(found: list[Made], endpoint: str, *, is_measured: bool) -> tuple[float, int]:
    """Seconds of CPU, and how many spans the collector has taken."""
    ring = Ring()
    progress = ProgressTable.over(bytearray(PROGRESS_TABLE_BYTES))
    settings, _ = Settings.from_environ({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    assert settings.otlp is not None
    sender = Sender(settings.otlp, "bench", print, SenderOptions(QUEUE_BYTES, batch_spans=BATCH_SPANS))
    inputs = LiveInputs(ring.reader, progress, sender.own_endpoints)
    measuring = Measuring(settings.metrics, KNOWN_METHODS) if is_measured else None
    pipeline = Pipeline(inputs, FACTS.services(), FACTS.builder(), FACTS.sample(), None, sender.queue, measuring)
    for pid in SERVICE_PIDS:
        identity = ServiceIdentity(pid, pid, b"shop", b"/shop", (b"shop",), {}, b"/", "", (LISTENING_PORT,), "root")
        pipeline.take_frame(identity)
    sender.start()
    filling_seconds = 0.0
    began = time.process_time()
    for first in range(0, len(found), PER_TICK):
        filling_began = time.thread_time()
        ring.put([sample for one in found[first : first + PER_TICK] for sample in one.samples])
        filling_seconds += time.thread_time() - filling_began
        pipeline.tick(pipeline.produced)
    pipeline.finish()
    counts = sender.stop(60.0)
    seconds = time.process_time() - began - filling_seconds
    ring.close()
    return seconds, counts.exported


def by_sdk(found: list[Made], endpoint: str) -> tuple[float, int]:
    """As an instrumentation does it: a dictionary of attributes for each request."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    processor = BatchSpanProcessor(exporter, max_queue_size=len(found), max_export_batch_size=BATCH_SPANS)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("bench")
    host, _, port = HOST.decode().partition(":")
    began = time.process_time()
    for one in found:
        method, route = one.method.decode(), one.route.decode()
        span = tracer.start_span(
            f"{method} {route}",
            kind=SpanKind.SERVER,
            start_time=one.start_ns,
            attributes={
                "http.request.method": method,
                "http.route": route,
                "url.scheme": "http",
                "server.address": host,
                "server.port": int(port),
                "http.response.status_code": one.status,
                "network.protocol.version": "1.1",
                "url.path": one.target.decode().partition("?")[0],
                "client.address": one.client,
                "user_agent.original": one.user_agent.decode(),
                "network.peer.address": one.client,
                "network.peer.port": one.client_port,
            },
        )
        if one.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(one.end_ns)
    provider.shutdown()
    return time.process_time() - began, len(found)


def _collect(pipe: Connection) -> None:
    """The collector's process: parses what comes, and tells how many spans there were."""
    with http_sink() as sink:
        sink.keeps_spans = False
        pipe.send(sink.endpoint)
        while pipe.recv():
            pipe.send(sink.span_count)


@contextmanager
def collector() -> Iterator[tuple[str, Callable[[], int]]]:
    """Its endpoint, and how to ask for the number of spans that it has."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_collect, args=(there,), daemon=True)
    process.start()
    endpoint: str = here.recv()

    def count() -> int:
        here.send(True)
        found: int = here.recv()
        return found

    try:
        yield endpoint, count
    finally:
        here.send(False)
        process.join()


def report() -> None:
    hot, mixed = list(one_path(SPANS)), list(varied(SPANS))
    rows: dict[str, Callable[[str], tuple[float, int]]] = {
        "one path on eight connections": partial(ours, hot, is_measured=False),
        "5,000 paths, 200 clients": partial(ours, mixed, is_measured=False),
        "the same, and each one measured": partial(ours, mixed, is_measured=True),
        "the SDK, 5,000 paths": partial(by_sdk, mixed[:SDK_SPANS]),
    }
    gc.collect()
    gc.freeze()  # what is made up here is neither side's to look through
    print(f"\nSpans per second of CPU time, from record to bytes posted, median of {REPEATS} interleaved rounds")
    taken: dict[str, list[float]] = {name: [] for name in rows}
    with collector() as (endpoint, count):
        for run in rows.values():
            run(endpoint)  # warm
        for _ in range(REPEATS):
            for name, run in rows.items():
                before = count()
                seconds, spans = run(endpoint)
                arrived = count() - before
                if arrived != spans:
                    print(f"  {spans} spans, {arrived} of them arrived")
                taken[name].append(seconds / spans)
    for name, seconds_of_spans in taken.items():
        each = [seconds * 1e6 for seconds in seconds_of_spans]
        middle = statistics.median(each)
        print(f"  {name:48} {1e6 / middle:12,.0f}   {middle:6.2f} µs a span ({min(each):.2f} to {max(each):.2f})")


if __name__ == "__main__":
    report()
