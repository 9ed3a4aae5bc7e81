"""The exporter: an unprivileged process that parses what the kernel captured and talks to the network.

In:   the channel to the probe; over it the descriptors of the shared memory, then frames
Out:  an exit status
Owns: the order of its life: construct while files can be read, drop every right, only then look at a foreign byte
"""

import contextlib
import faulthandler
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from otel_ebpf import __version__
from otel_ebpf.config import MetricsSettings, Settings
from otel_ebpf.errors import AgentError, PeerLostError
from otel_ebpf.export.accounts import host_line, service_lines, status_document
from otel_ebpf.export.console import Console
from otel_ebpf.export.facts import Facts
from otel_ebpf.export.host import read_host_facts
from otel_ebpf.export.inputs import Inputs, LiveInputs, RecordingInputs
from otel_ebpf.export.measuring import Measuring
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.redaction import Redaction
from otel_ebpf.export.sender import Sender, SenderOptions
from otel_ebpf.export.status import StatusServer
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.frames import MAX_FRAME_BYTES, Shutdown, decode_frame
from otel_ebpf.records.progress import ProgressTable
from otel_ebpf.records.recording import EntryKind, OpenRecording, RecordingWriter
from otel_ebpf.records.ring import RingReader
from otel_ebpf.status_socket import StatusUnavailableError, listen_for_status
from otel_ebpf.telemetry.routes import RouteRules
from otel_ebpf.telemetry.sampling import SamplerRules

if TYPE_CHECKING:
    from otel_ebpf.export.metrics_sender import MetricsSender

_BUSY_TICK_MS = 20
_IDLE_TICK_MS = 50
_SUMMARY_SECONDS = 0.3  # of the shutdown time that sending must leave
_WATCHDOG_SECONDS = 1.0  # past the deadline: something hangs, and the probe is waiting


class Exporter:
    """Made while its files can be read; `run` needs none, and no rights."""

    def __init__(self, settings: Settings, recording: OpenRecording | None = None) -> None:
        self._recording = recording
        self._settings = settings
        self._sender: Sender | None = None
        if settings.otlp is not None and not settings.is_disabled:
            options = SenderOptions(
                queue_bytes=settings.queue_bytes,
                queue_spans=settings.max_queue_spans,
                batch_spans=settings.max_export_batch_size,
                schedule_delay_ms=settings.schedule_delay_ms,
            )
            self._sender = Sender(settings.otlp, __version__, _report, options)
        self._measuring: Measuring | None = None
        self._metrics_sender: MetricsSender | None = None
        if (settings.metrics.otlp or settings.metrics.prometheus) and not settings.is_disabled:
            self._measure(settings.metrics)
        self._printer: Console | None = None
        if settings.trace_printer != "disabled":
            self._printer = Console(settings.trace_printer, sys.stdout, sys.stdout.isatty(), time.monotonic())
        self._status = _status_server(settings.status_socket)
        self._facts = Facts(
            seed=os.urandom(32),
            version=__version__,
            host=read_host_facts(),
            value_length_limit=settings.attribute_value_length_limit,
            count_limit=settings.attribute_count_limit,
            known_methods=tuple(settings.known_methods),
            routes=RouteRules(settings.routes, settings.unmatched_routes),
            sampler=SamplerRules(settings.sampler, settings.sampler_rate),
            shows_evidence=settings.shows_evidence,
        )

    def run(self, channel: socket.socket) -> int:
        """Until the probe says so, or is gone; returns the exit status."""
        terminated: list[int] = []
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the probe tells when to end
        signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))
        descriptors = _receive_maps(channel)
        if descriptors is None:
            return 0  # the probe could not start, and has said why
        ring, progress = RingReader(descriptors[0], self._settings.ring_bytes), ProgressTable(descriptors[1])
        inputs = self._inputs(ring, progress)
        sink = self._sender.queue if self._sender else None
        facts = self._facts
        pipeline = Pipeline(
            inputs, facts.services(), facts.builder(), facts.sample(), self._printer, sink, self._measuring
        )
        if self._sender is not None:
            self._sender.start()
        if self._metrics_sender is not None:
            self._metrics_sender.start()
        channel.send(b"ready")
        if self._status is not None:
            self._status.document = lambda: status_document(pipeline, ring, self._sender)
        shutdown = _work(pipeline, channel, terminated, self._status, self._measuring)
        self._finish(pipeline, shutdown)
        if shutdown is None and not terminated:
            raise PeerLostError("the probe has ended", "What it had attached is detached; start the agent again.")
        return 0

    def _measure(self, settings: MetricsSettings) -> None:
        methods = frozenset(method.encode() for method in self._settings.known_methods)
        self._measuring = Measuring(settings, methods)
        if settings.otlp is not None and self._measuring.for_otlp is not None:
            from otel_ebpf.export.metrics_sender import MetricsSender  # with the metrics SDK: 5 MB

            self._metrics_sender = MetricsSender(
                settings, settings.otlp, self._measuring.for_otlp, self._measuring.desk, __version__, _report
            )

    def _own_endpoints(self) -> frozenset[Endpoint]:
        found: frozenset[Endpoint] = frozenset()
        for sender in (self._sender, self._metrics_sender):
            if sender is not None:
                found |= sender.own_endpoints()
        return found

    def _inputs(self, ring: RingReader, progress: ProgressTable) -> Inputs:
        live = LiveInputs(ring, progress, self._own_endpoints)
        if self._recording is None:
            return live
        writer = RecordingWriter(os.fdopen(self._recording.descriptor, "wb"))
        writer.write(EntryKind.START, self._facts.encode())
        redaction = Redaction(self._facts) if self._recording.is_redacted else None
        return RecordingInputs(live, progress, writer, redaction, _report)

    def _finish(self, pipeline: Pipeline, shutdown: Shutdown | None) -> None:
        """Sends what there is, within the deadline."""
        now_ns = time.monotonic_ns()
        deadline_ns = shutdown.deadline_ns if shutdown else now_ns + self._settings.shutdown_timeout_ns
        left_seconds = max(0.0, (deadline_ns - now_ns) / 1e9)
        faulthandler.dump_traceback_later(left_seconds + _WATCHDOG_SECONDS, exit=True)
        pipeline.tick(pipeline.produced)
        pipeline.finish()
        if isinstance(pipeline.inputs, RecordingInputs):
            pipeline.inputs.flush()  # before the collector is waited for
        left_seconds = max(0.0, left_seconds - _SUMMARY_SECONDS)
        if self._metrics_sender is not None:
            self._metrics_sender.begin_stop(pipeline.snapshot(self._metrics_sender.meter), left_seconds)
        counts = self._sender.stop(left_seconds) if self._sender else None
        if self._metrics_sender is not None:
            self._metrics_sender.join()
        for line in (*service_lines(pipeline), host_line(pipeline, counts)):
            _report(line)


def _receive_maps(channel: socket.socket) -> list[int] | None:
    message, descriptors, _, _ = socket.recv_fds(channel, 64, 2)
    if not message:
        return None
    if len(descriptors) != 2:
        raise AgentError(f"the probe handed over {len(descriptors)} descriptors: 2 are needed", "This is a defect.")
    return descriptors


def _work(
    pipeline: Pipeline,
    channel: socket.socket,
    terminated: list[int],
    status: StatusServer | None,
    measuring: Measuring | None,
) -> Shutdown | None:
    """Ticks until told to end; None when the probe has gone without a word."""
    channel.setblocking(False)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if status is not None:
        poll.register(status.listener, select.POLLIN)
    wait_ms = _IDLE_TICK_MS
    while not terminated:
        is_told = poll.poll(wait_ms)
        produced = pipeline.produced
        if is_told:
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                while packet := channel.recv(MAX_FRAME_BYTES):
                    try:
                        frame = decode_frame(packet)
                    except DecodeError as error:
                        raise AgentError(
                            f"the probe said something unreadable: {error}", "This is a defect."
                        ) from error
                    pipeline.take_frame(frame)
                    if isinstance(frame, Shutdown):
                        return frame
                return None
        wait_ms = _BUSY_TICK_MS if pipeline.tick(produced) else _IDLE_TICK_MS
        if status is not None:
            status.serve()
        if measuring is not None:
            measuring.desk.serve(pipeline.snapshot)
    return None


def _status_server(path: str | None) -> StatusServer | None:
    try:
        return None if path is None else StatusServer(listen_for_status(path))
    except StatusUnavailableError as error:
        _report(f"{error.what}: `otel-ebpf status` does not tell of this agent; see OTEL_EBPF_STATUS_SOCKET")
        return None


def _report(line: str) -> None:
    sys.stderr.write(f"otel-ebpf: {line}\n")
