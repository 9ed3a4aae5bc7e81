"""A program: builds what sends and what serves, gives up all rights to files, works, and says what it still wanted to read.

Arguments: protocol, endpoint of a collector, endpoint of none, an empty folder. Prints one JSON object.
"""

import json
import os
import socket
import stat
import sys
import time

from otel_ebpf.export.metrics_data import MetricsDataBuilder
from otel_ebpf.export.metrics_sender import MetricsSender
from otel_ebpf.export.otlp import SpanEncoder, encode_resource
from otel_ebpf.export.pages import PageServer
from otel_ebpf.export.prometheus import PrometheusPage
from otel_ebpf.export.self_metrics import SelfMetrics
from otel_ebpf.export.sender import Sender, SenderOptions
from otel_ebpf.otlp_settings import OtlpSettings
from otel_ebpf.setting_values import Listen
from tests.unit.export.collectors import free_port
from tests.unit.export.measurements import Measured, metrics_settings
from tests.unit.telemetry.examples import HOST, exchange, span_of


def settings_for(protocol: str, endpoint: str) -> OtlpSettings:
    return OtlpSettings(
        endpoint=endpoint, protocol=protocol, headers=(), timeout_ms=60_000, compression="gzip", certificate=None,
        client_key=None, client_certificate=None, insecure=True,
    )  # fmt: skip


def sender_for(protocol: str, endpoint: str) -> Sender:
    return Sender(settings_for(protocol, endpoint), "1", lambda message: None, SenderOptions(schedule_delay_ms=10))


def metrics_sender_for(protocol: str, endpoint: str) -> tuple[MetricsSender, Measured]:
    otlp = settings_for(protocol, endpoint)
    settings = metrics_settings(otlp, prometheus=None)
    measured = Measured(settings)
    meter = measured.measuring.for_otlp
    assert meter is not None
    desk, own = measured.measuring.desk, SelfMetrics("1", HOST, None)
    return MetricsSender(settings, otlp, meter, desk, "1", lambda message: None, own.read), measured


def page_server(measured: Measured, port: int) -> PageServer:
    meter = measured.measuring.for_otlp
    assert meter is not None
    desk = measured.measuring.desk
    desk.ask = lambda meter, timeout_seconds: measured.snapshot(meter)  # type: ignore[method-assign]  # in one thread
    page = PrometheusPage(meter, desk, MetricsDataBuilder("1", time.time_ns()))
    return PageServer(Listen("127.0.0.1", port), "X", {"/metrics": page.make})


def scrape(port: int, accept: str) -> str:
    """The status line, and the last line."""
    with socket.socket() as client:
        client.settimeout(60)
        client.connect(("127.0.0.1", port))  # create_connection wants a codec that is not there
        client.sendall(f"GET /metrics HTTP/1.1\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    lines = answer.decode().splitlines()
    return f"{lines[0]} {lines[-1][:60]}"


def drop_rights(root: str) -> None:
    """An empty root folder but for what gRPC takes random numbers from, and nobody: no other file can be opened."""
    os.chmod(root, 0o755)
    os.mkdir(f"{root}/dev")
    os.mknod(f"{root}/dev/urandom", stat.S_IFCHR | 0o666, os.makedev(1, 9))
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def main() -> None:
    protocol, taking, absent, folder = sys.argv[1:]
    senders = [sender_for(protocol, taking), sender_for(protocol, absent)]
    metrics_sender, measured = metrics_sender_for(protocol, taking)
    port = free_port()
    server = page_server(measured, port)
    span = SpanEncoder().encode_span(span_of(exchange()))
    resource = encode_resource({"service.name": "x"})
    loaded = set(sys.modules)
    failures: list[str] = []
    sys.meta_path.insert(0, Recorder(failures))
    if os.geteuid() == 0:  # for others the imports alone tell
        drop_rights(folder)
    for sender in senders:
        sender.start()
        sender.queue.put(resource, [span])
    metrics_sender.start()
    measured.record(exchange())
    server.start()
    pages = [scrape(port, accept) for accept in ("application/openmetrics-text; version=1.0.0", "text/plain")]
    server.close()
    metrics_sender.begin_stop(measured.snapshot(metrics_sender.meter), 60.0)
    metrics_sender.join()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (senders[0].counts().exported and senders[1]._failures_in_row):
        time.sleep(0.01)
    endpoints = len(senders[0].own_endpoints())
    counts = [sender.stop(1.0) for sender in senders]
    imported = sorted(set(sys.modules) - loaded)
    points = metrics_sender.exported
    print(
        json.dumps(
            {
                "counts": counts,
                "points": points,
                "pages": pages,
                "imported": imported,
                "wanted": failures,
                "endpoints": endpoints,
            }
        )
    )


class Recorder:
    """First on sys.meta_path: sees every import of a module that is not loaded."""

    def __init__(self, wanted: list[str]) -> None:
        self._wanted = wanted

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        self._wanted.append(name)


if __name__ == "__main__":
    main()
