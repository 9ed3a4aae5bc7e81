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
from pathlib import Path
from typing import TYPE_CHECKING

from otel_ebpf import __version__
from otel_ebpf.config import Settings
from otel_ebpf.errors import AgentError, PeerLostError
from otel_ebpf.exchanges.kinship import Parents
from otel_ebpf.export.accounts import host_line, service_lines, status_document
from otel_ebpf.export.console import Console
from otel_ebpf.export.facts import Facts
from otel_ebpf.export.health import ENDING, Health
from otel_ebpf.export.host import read_host_facts
from otel_ebpf.export.inputs import Inputs, LiveInputs, RecordingInputs
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.pages import MakePage, PageServer
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.redaction import Redaction
from otel_ebpf.export.sender import Sender, SenderOptions
from otel_ebpf.export.spool import Spool
from otel_ebpf.export.status import StatusServer
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.frames import MAX_FRAME_BYTES, Frame, Shutdown, decode_frame
from otel_ebpf.records.progress import ProgressTable
from otel_ebpf.records.recording import EntryKind, OpenRecording, RecordingWriter
from otel_ebpf.records.ring import RingReader
from otel_ebpf.setting_values import Listen
from otel_ebpf.status_socket import StatusUnavailableError, listen_for_status
from otel_ebpf.telemetry.headers import HeaderRules
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.routes import RouteRules
from otel_ebpf.telemetry.sampling import SamplerRules

if TYPE_CHECKING:
    from otel_ebpf.export.metrics_output import MetricsOutput

_BUSY_TICK_MS = 20
_IDLE_TICK_MS = 50
_SUMMARY_SECONDS = 0.3  # of the shutdown time that sending must leave
_WATCHDOG_SECONDS = 2.0  # past the deadline: something hangs, and the probe is waiting


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
            spool = None
            if settings.spool_folder is not None:
                spool = Spool(Path(settings.spool_folder), settings.spool_bytes, _report)
            self._sender = Sender(settings.otlp, __version__, _report, options, spool)
        host = read_host_facts()
        self._metrics = _metrics_output(settings, host, self._sender)
        self._health = Health()
        self._page_servers = self._listen(settings)
        self._printer: Console | None = None
        if settings.trace_printer != "disabled":
            self._printer = Console(settings.trace_printer, sys.stdout, sys.stdout.isatty(), time.monotonic())
        self._status = _status_server(settings.status_socket)
        self._facts = Facts(
            seed=os.urandom(32),
            version=__version__,
            host=host,
            value_length_limit=settings.attribute_value_length_limit,
            count_limit=settings.attribute_count_limit,
            known_methods=tuple(settings.known_methods),
            routes=RouteRules(settings.routes, settings.unmatched_routes),
            sampler=SamplerRules(settings.sampler, settings.sampler_rate, settings.sampler_slowest),
            shows_evidence=settings.shows_evidence,
            more_secret_keys=settings.secret_query_keys,
            parents=settings.parents,
            headers=HeaderRules(settings.request_headers, settings.response_headers, settings.sanitized_headers),
        )
        if self._printer is not None:
            self._printer.secret_keys = self._facts.secret_keys

    def run(self, channel: socket.socket) -> int:
        """Until the probe says so, or is gone; returns the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM):
            # Terminals and service managers tell all processes at once; this one ends when the probe says so.
            signal.signal(number, signal.SIG_IGN)
        for server in self._page_servers:
            server.start()
        descriptors = _receive_maps(channel)
        if descriptors is None:
            return 0  # the probe could not start, and has said why
        ring, progress = RingReader(descriptors[0], self._settings.ring_bytes), ProgressTable(descriptors[1])
        inputs = self._inputs(ring, progress)
        sink = self._sender.queue if self._sender else None
        facts, measuring = self._facts, self._metrics.measuring if self._metrics else None
        services, builder, outcomes = facts.services(), facts.builder(), facts.outcomes()
        pipeline = Pipeline(
            inputs, services, builder, facts.sample(), self._printer, sink, measuring, outcomes, Parents(facts.parents)
        )
        if self._sender is not None:
            self._sender.start()
        if self._metrics is not None:
            self._metrics.start(pipeline, ring)
        metrics_sender = self._metrics.sender if self._metrics else None
        channel.send(b"ready")
        if self._status is not None:
            self._status.document = lambda: status_document(pipeline, ring, self._sender, metrics_sender)
        self._health.details = lambda: self._details(pipeline)
        self._health.problems = lambda: _problems(pipeline)
        self._health.begin_work()
        shutdown = self._work(pipeline, channel)
        self._health.phase = ENDING
        self._finish(pipeline, shutdown)
        if shutdown is None:
            raise PeerLostError("the probe has ended", "What it had attached is detached; start the agent again.")
        return 0

    def _listen(self, settings: Settings) -> list[PageServer]:
        """The ports that pages are served at; one for both kinds where both settings name the same."""
        by_place: dict[Listen, tuple[str, dict[str, MakePage]]] = {}
        for where, setting, pages in (
            (settings.metrics.prometheus, "OTEL_EBPF_PROMETHEUS_PORT", self._metrics.pages if self._metrics else {}),
            (settings.health, "OTEL_EBPF_HEALTH_CHECK_PORT", self._health.pages()),
        ):
            if where is not None and not settings.is_disabled:
                by_place.setdefault(where, (setting, {}))[1].update(pages)
        return [PageServer(where, setting, pages) for where, (setting, pages) in by_place.items()]

    def _details(self, pipeline: Pipeline) -> dict[str, object]:
        return {
            "hooks": pipeline.hooks.text,
            "collector": None if self._sender is None else self._sender.collector_state,
            "metrics_collector": self._metrics.collector_state if self._metrics else None,
        }

    def _own_endpoints(self) -> frozenset[Endpoint]:
        senders = (self._sender, self._metrics)
        return frozenset().union(*(sender.own_endpoints() for sender in senders if sender is not None))

    def _inputs(self, ring: RingReader, progress: ProgressTable) -> Inputs:
        live = LiveInputs(ring, progress, self._own_endpoints)
        if self._recording is None:
            return live
        writer = RecordingWriter(os.fdopen(self._recording.descriptor, "wb"))
        writer.write(EntryKind.START, self._facts.encode())
        redaction = Redaction(self._facts) if self._recording.is_redacted else None
        return RecordingInputs(live, progress, writer, redaction, _report)

    def _work(self, pipeline: Pipeline, channel: socket.socket) -> Shutdown | None:
        """Ticks until told to end; None when the probe has gone without a word."""
        channel.setblocking(False)
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        if self._status is not None:
            poll.register(self._status.listener, select.POLLIN)
        wait_ms = _IDLE_TICK_MS
        while True:
            is_told = poll.poll(wait_ms)
            produced = pipeline.produced
            if is_told:
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    while packet := channel.recv(MAX_FRAME_BYTES):
                        frame = _decode(packet)
                        pipeline.take_frame(frame)
                        if isinstance(frame, Shutdown):
                            return frame
                    return None
            wait_ms = _BUSY_TICK_MS if pipeline.tick(produced) else _IDLE_TICK_MS
            self._health.beat()
            if self._status is not None:
                self._status.serve()
            if self._metrics is not None:
                self._metrics.serve(pipeline.snapshot)

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
        if self._metrics is not None:
            self._metrics.begin_stop(pipeline.snapshot, left_seconds)
        counts = self._sender.stop(left_seconds) if self._sender else None
        if self._metrics is not None:
            self._metrics.join()
        for line in (*service_lines(pipeline), host_line(pipeline, counts)):
            _report(line)


def _metrics_output(settings: Settings, host: HostFacts, sender: Sender | None) -> "MetricsOutput | None":
    """None when nobody wants metrics."""
    if settings.is_disabled or not (settings.metrics.otlp or settings.metrics.prometheus):
        return None
    from otel_ebpf.export.metrics_output import MetricsOutput  # with the metrics SDK

    methods = frozenset(method.encode() for method in settings.known_methods)
    return MetricsOutput(settings.metrics, methods, _report, host, sender)


def _receive_maps(channel: socket.socket) -> list[int] | None:
    message, descriptors, _, _ = socket.recv_fds(channel, 64, 2)
    if not message:
        return None
    if len(descriptors) != 2:
        raise AgentError(f"the probe handed over {len(descriptors)} descriptors: 2 are needed", "This is a defect.")
    return descriptors


def _decode(packet: bytes) -> Frame:
    try:
        return decode_frame(packet)
    except DecodeError as error:
        raise AgentError(f"the probe said something unreadable: {error}", "This is a defect.") from error


def _problems(pipeline: Pipeline) -> list[str]:
    """What keeps requests from being seen. Called in another thread, which a list of the accounts makes safe."""
    processes = sum(account.processes for account in list(pipeline.ledger.accounts.values()))
    if processes and not pipeline.hooks.backend:
        return [f"{processes} processes are to be watched, and no hook is attached"]
    return []


def _status_server(path: str | None) -> StatusServer | None:
    try:
        return None if path is None else StatusServer(listen_for_status(path))
    except StatusUnavailableError as error:
        _report(f"{error.what}: `otel-ebpf status` does not tell of this agent; see OTEL_EBPF_STATUS_SOCKET")
        return None


def _report(line: str) -> None:
    sys.stderr.write(f"otel-ebpf: {line}\n")
