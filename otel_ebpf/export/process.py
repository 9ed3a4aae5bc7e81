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

from otel_ebpf import __version__
from otel_ebpf.config import Settings
from otel_ebpf.errors import AgentError, PeerLostError
from otel_ebpf.export.console import Console
from otel_ebpf.export.host import read_host_facts
from otel_ebpf.export.own_connections import Endpoint
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.export.sender import Sender, SenderOptions
from otel_ebpf.export.services import Services
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.frames import MAX_FRAME_BYTES, Shutdown, decode_frame
from otel_ebpf.records.kinds import Counter
from otel_ebpf.records.progress import ProgressTable
from otel_ebpf.records.ring import RingReader
from otel_ebpf.telemetry.spans import SpanBuilder
from otel_ebpf.telemetry.trace_context import IdSource

_BUSY_TICK_MS = 20
_IDLE_TICK_MS = 50
_SUMMARY_SECONDS = 0.3  # of the shutdown time that sending must leave
_WATCHDOG_SECONDS = 1.0  # past the deadline: something hangs, and the probe is waiting


class _SenderSink:
    def __init__(self, sender: Sender) -> None:
        self.put = sender.queue.put
        self._sender = sender

    def own_endpoints(self) -> frozenset[Endpoint]:
        return self._sender.own_endpoints()


class Exporter:
    """Made while its files can be read; `run` needs none, and no rights."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sender: Sender | None = None
        if settings.otlp is not None and not settings.is_disabled:
            options = SenderOptions(
                queue_bytes=settings.queue_bytes,
                batch_spans=settings.max_export_batch_size,
                schedule_delay_ms=settings.schedule_delay_ms,
            )
            self._sender = Sender(settings.otlp, __version__, _report, options)
        self._printer: Console | None = None
        if settings.trace_printer != "disabled":
            self._printer = Console(settings.trace_printer, sys.stdout, sys.stdout.isatty(), time.monotonic())
        self._builder = SpanBuilder(
            IdSource(os.urandom(32)),
            settings.attribute_value_length_limit,
            settings.attribute_count_limit,
            frozenset(method.encode() for method in settings.known_methods),
        )
        self._services = Services(read_host_facts(), __version__)

    def run(self, channel: socket.socket) -> int:
        """Until the probe says so, or is gone; returns the exit status."""
        terminated: list[int] = []
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the probe tells when to end
        signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))
        descriptors = _receive_maps(channel)
        if descriptors is None:
            return 0  # the probe could not start, and has said why
        ring, progress = RingReader(descriptors[0], self._settings.ring_bytes), ProgressTable(descriptors[1])
        sink = _SenderSink(self._sender) if self._sender else None
        pipeline = Pipeline(ring, progress, self._services, self._builder, self._printer, sink)
        if self._sender is not None:
            self._sender.start()
        channel.send(b"ready")
        shutdown = _work(pipeline, channel, terminated)
        self._finish(pipeline, shutdown)
        if shutdown is None and not terminated:
            raise PeerLostError("the probe has ended", "What it had attached is detached; start the agent again.")
        return 0

    def _finish(self, pipeline: Pipeline, shutdown: Shutdown | None) -> None:
        """Sends what there is, within the deadline."""
        now_ns = time.monotonic_ns()
        deadline_ns = shutdown.deadline_ns if shutdown else now_ns + self._settings.shutdown_timeout_ns
        left_seconds = max(0.0, (deadline_ns - now_ns) / 1e9)
        faulthandler.dump_traceback_later(left_seconds + _WATCHDOG_SECONDS, exit=True)
        pipeline.finish()
        _report(summary(pipeline, self._sender, max(0.0, left_seconds - _SUMMARY_SECONDS)))


def summary(pipeline: Pipeline, sender: Sender | None, seconds: float) -> str:
    """Stops the sender; one line that accounts for every request that began."""
    kernel, assembler = pipeline.counters.values, pipeline.assembler
    parts = [f"{kernel[Counter.BEGAN] + assembler.pipelined} requests began", f"{pipeline.spans} spans"]
    losses = {
        "lost, ring full": kernel[Counter.LOST_RING_FULL] - assembler.recovered,
        "lost, too many connections": kernel[Counter.LOST_CONNECTIONS_FULL],
        **pipeline.unsent,
    }
    for reason, count in assembler.losses.items():
        losses[reason] = losses.get(reason, 0) + count
    parts += [f"{count} {reason}" for reason, count in losses.items() if count]
    if sender is not None:
        counts = sender.stop(seconds)
        parts.append(f"{counts.exported} exported")
        parts += [f"{count} {name}" for name, count in counts._asdict().items() if count and name != "exported"]
    return ", ".join(parts)


def _receive_maps(channel: socket.socket) -> list[int] | None:
    message, descriptors, _, _ = socket.recv_fds(channel, 64, 2)
    if not message:
        return None
    if len(descriptors) != 2:
        raise AgentError(f"the probe handed over {len(descriptors)} descriptors: 2 are needed", "This is a defect.")
    return descriptors


def _work(pipeline: Pipeline, channel: socket.socket, terminated: list[int]) -> Shutdown | None:
    """Ticks until told to end; None when the probe has gone without a word."""
    channel.setblocking(False)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
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
    return None


def _report(line: str) -> None:
    sys.stderr.write(f"otel-ebpf: {line}\n")
