"""`make demo`, for some seconds: what it shows is what happened, and Ctrl-C ends all that it started."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.shop.report import spans_of
from tests.end_to_end.agent import assert_unloaded
from tests.end_to_end.backends import Jaeger, collector_program, jaeger_program
from tests.end_to_end.bpf_objects import programs_held_by
from tests.services.processes import (
    VENV_BIN,
    descendants_of,
    end,
    environment,
    free_port,
    is_listening,
    start,
    wait_until,
)

PORTS_OF_THE_SHOP = 6
WANTED = {
    ("nginx", "server", "GET /items/{id}"),
    ("nginx", "server", "POST /orders"),
    ("nginx", "client", "POST"),
    ("catalog", "server", "GET /items"),
    ("catalog", "server", "GET /items/{id}"),
    ("cart", "server", "POST /cart/{id}"),
    ("cart", "client", "GET"),
    ("orders", "server", "POST /orders"),
    ("orders", "client", "DELETE"),
    ("orders", "client", "POST"),
    ("payments", "server", "POST /payments"),
}


def free_ports(count: int) -> int:
    """The first of so many side by side."""

    def first() -> int:
        port = free_port()
        return 0 if any(is_listening(("127.0.0.1", port + more)) for more in range(count)) else port

    return wait_until(first, f"{count} free ports side by side")


@contextmanager
def demo(port: int, jaeger_port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(VENV_BIN / "python"), "-m", "examples.shop", f"--port={port}", f"--jaeger-port={jaeger_port}"]
    process = start([*command, "--every-s=1"], log=log, env=environment())
    try:
        yield process
    finally:
        end(process, seconds=60)  # it ends its own


def seen(backend: Jaeger) -> set[tuple[str, str, str]]:
    traces = [trace for service in backend.services() for trace in backend.traces_of(service)]
    return {(span.service, span.kind, span.name) for trace in traces for span in spans_of(trace)}


def test_demo_shows_the_shop_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its services are in Jaeger with what they serve and call. Visits are spans of nginx, one for one, in plain text and over TLS;
    payments between Go programs too."""
    port, jaeger_port, log = free_ports(PORTS_OF_THE_SHOP), free_port(), tmp_path / "demo.log"
    backend = Jaeger("", "", f"http://127.0.0.1:{jaeger_port}")
    for build in (collector_program, jaeger_program):  # which may take minutes
        build()
    with demo(port, jaeger_port, log) as process:
        wait_until(
            lambda: "In Jaeger" in log.read_text() or process.poll() is not None,
            "the demo shows what Jaeger has",
            seconds=180,
        )
        assert process.poll() is None, log.read_text()
        wait_until(lambda: seen(backend) >= WANTED, f"{WANTED} are in Jaeger", seconds=120, every_s=0.5)
        assert set() == set(backend.services()) - {"nginx", "catalog", "cart", "orders", "payments"}
        started = descendants_of(process.pid)
        programs = programs_held_by(started)
        assert programs

        process.send_signal(signal.SIGINT)
        process.wait(60)

    said = log.read_text()
    assert 0 == process.returncode, said
    assert [] == [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert_unloaded(programs)
    plain, tls = re.search(r"made (\d+) requests in plain text and (\d+) over TLS", said).groups()  # type: ignore[union-attr]
    spans = 2 * (int(plain) + int(tls))  # each visit goes on to one service behind nginx
    assert int(tls) > 0
    assert re.search(rf"nginx \(pid \d+\): {spans} began, {spans} spans\n", said), said
