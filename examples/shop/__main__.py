"""The demo: a small shop, watched. `sudo make demo`.

In:   how long, and where to listen
Out:  on the terminal: where to look, what Jaeger has got, in the end the agent's own account
Owns: everything that it starts, until Ctrl-C

Agent -> Collector -> Jaeger, with the files of collector-config/jaeger/. The shop is not touched: the agent finds it by its ports.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from examples.shop.report import most_telling, spans_of, table, tree
from examples.shop.services import Addresses, Certificate, open_shop
from tests.end_to_end.backends import CONFIGURATIONS, Jaeger, jaeger, otlp_collector
from tests.services.processes import VENV_BIN, end, environment, free_port, given_ports, is_listening, start, wait_until
from tests.services.servers import public_folder

AGENT = [str(VENV_BIN / "otel-ebpf")]
TRACES_OF_A_SERVICE = 1500
SECONDS_TO_START = 60.0  # the probes are compiled where they have never been
SECONDS_TO_SHOW = 15.0
SECONDS_COUNTS_ARE_OLD = 1.5  # the kernel's are asked for once a second
ENDING = (signal.SIGINT, signal.SIGTERM)


def say(text: str = "") -> None:
    print(text, flush=True)


def stop(*_: object) -> NoReturn:
    """Once: whoever presses Ctrl-C again must not keep us from ending what we have started."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def watching(at: Addresses, endpoint: str, folder: Path) -> Iterator[None]:
    """The agent; at the end its account of what it saw."""
    log, status = folder / "agent.log", folder / "status.sock"
    settings = {
        "OTEL_EBPF_OPEN_PORT": at.watched,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
        "OTEL_EBPF_STATUS_SOCKET": str(status),
    }
    env = environment(**settings)
    process = start([*AGENT, "run"], log=log, env=env)
    try:
        wait_until(
            lambda: "watching" in log.read_text() or process.poll() is not None,
            f"the agent watches; see {log}",
            seconds=SECONDS_TO_START,
        )
        if process.poll() is not None:
            raise RuntimeError(f"the agent ended: {log.read_text()}")
        try:
            yield
        finally:
            time.sleep(SECONDS_COUNTS_ARE_OLD)
            said = subprocess.run([*AGENT, "status"], capture_output=True, text=True, check=True, env=env).stdout
            say(f"\nWhat `otel-ebpf status` says:\n\n{said}")
    finally:
        end(process)
        account = [line for line in log.read_text().splitlines() if " began" in line]
        say("\n".join(["What the agent says in the end:", "", *account]))


@contextmanager
def visiting(at: Addresses, tls: Certificate) -> Iterator[None]:
    """Visitors until the end; what they have done."""
    ports = [f"--port={at.front}", f"--tls-port={at.front_tls}", f"--certificate={tls.certificate}"]
    process = subprocess.Popen(
        [str(VENV_BIN / "python"), "-m", "examples.shop.visitors", *ports],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,  # Ctrl-C is the demo's to handle
    )
    try:
        yield
    finally:
        process.terminate()
        done = json.loads(process.communicate(timeout=30)[0])
        answers = ", ".join(f"{count} times {status}" for status, count in done["statuses"].items())
        say(
            f"\nThe visitors made {done['plain']} requests in plain text and {done['tls']} over TLS, answered {answers}."
        )


def tell_where_to_look(at: Addresses, backend: Jaeger, endpoint: str, metrics: str, folder: Path) -> None:
    say(f"""
The shop: nginx in front of FastAPI (catalog), Node (cart) and Go (orders, which has payments over TLS). Nothing in it knows of tracing.
  in plain text  curl http://127.0.0.1:{at.front}/items/7
  over TLS       curl --cacert {folder}/certificate.pem https://localhost:{at.front_tls}/items/7
Agent -> collector ({endpoint}) -> Jaeger. Where to look:
  curl -s {backend.query}/api/services
  curl -s '{backend.query}/api/traces?service=orders&limit=1'
  curl -s http://{metrics}/metrics          durations of every request, as the agent measured them
  sudo OTEL_EBPF_STATUS_SOCKET={folder}/status.sock {VENV_BIN}/otel-ebpf status
Jaeger built from its module has no web page, only the interface behind it. A released one shows the same spans.
What to see:
  - spans of five services, none of them changed: what they serve and what they call
  - routes: /items/7 and /items/8 are GET /items/{{id}}
  - one trace from nginx to the service behind it, by the traceparent that the visitor sent and nginx handed on
  - errors where a payment was declined, and item 40, which is slow
  - what goes over TLS, as if it did not: visits that nginx serves, payments between Go programs; url.scheme is https
Ctrl-C ends all of it.""")


def look(backend: Jaeger) -> None:
    traces = {
        trace["traceID"]: trace
        for service in backend.services()
        for trace in backend.traces_of(service, limit=TRACES_OF_A_SERVICE)
    }
    if not traces:
        return
    say("\nIn Jaeger, of the last traces (→ served, ← called):")
    say(table(span for trace in traces.values() for span in spans_of(trace)))
    newest = most_telling(traces.values())
    if newest:
        say(f"One of them, {newest['traceID']}:\n{tree(newest)}")


def run(options: argparse.Namespace) -> NoReturn:
    at = Addresses.from_base(options.port)
    given_ports.update(
        {*range(at.front, at.payments + 1), options.jaeger_port}
    )  # no other process of the demo is given them
    with ExitStack() as ends, tempfile.TemporaryDirectory(prefix="otel-ebpf-demo-") as private:
        say("Starting (the first time Jaeger and a collector are built: up to ten minutes) ...")
        backend = ends.enter_context(jaeger(Path(private) / "jaeger", query_port=options.jaeger_port))
        public = ends.enter_context(public_folder())
        queue = str(Path(private) / "queue")
        metrics = f"127.0.0.1:{free_port()}"
        values: dict[str, object] = {"exporters.prometheus.endpoint": metrics}
        files = [CONFIGURATIONS / "jaeger" / "collector.yaml"]
        collector = ends.enter_context(
            otlp_collector(
                Path(private) / "collector",
                "http/protobuf",
                files,
                values,
                JAEGER=backend.otlp_grpc,
                QUEUE_FOLDER=queue,
            )
        )
        tls = ends.enter_context(open_shop(at, public))
        with watching(at, collector.endpoint, public), visiting(at, tls):
            tell_where_to_look(at, backend, collector.endpoint, metrics, public)
            while True:
                time.sleep(options.every_s)
                look(backend)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=18080, help="the shop's first of six")
    parser.add_argument("--jaeger-port", type=int, default=16686, help="where Jaeger is asked")
    parser.add_argument("--every-s", type=float, default=SECONDS_TO_SHOW, help="seconds between two looks")
    options = parser.parse_args()
    if os.geteuid() != 0:
        say("The agent needs root: sudo make demo")
        return 1
    wanted = [*vars(Addresses.from_base(options.port)).values(), options.jaeger_port]
    taken = [str(port) for port in wanted if is_listening(("127.0.0.1", port))]
    if taken:
        say(f"In use: port {', '.join(taken)}. DEMO_ARGS='--port N --jaeger-port N' names others.")
        return 1
    for number in ENDING:
        signal.signal(number, stop)
    try:
        run(options)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
