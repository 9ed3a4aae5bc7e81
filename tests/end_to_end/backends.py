"""The real OpenTelemetry Collector and the real Jaeger, with the files of collector-config/ as they are shipped.

In:   a file of collector-config/, and which of its values this test needs otherwise (addresses, folders)
Out:  a running program; what it wrote or answers
Owns: its process
"""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.sink import Sink, Span
from tests.services.processes import CHECKOUT, environment, free_port, is_listening, running, wait_until
from tools.go_build import build

CONFIGURATIONS = CHECKOUT / "collector-config"


def collector_program() -> str:
    return str(build(CHECKOUT / "tests" / "collector"))


def jaeger_program() -> str:
    return str(build(CHECKOUT / "tests" / "jaeger"))


def with_values(program: str, files: list[Path], values: dict[str, object]) -> list[str]:
    """The command; each of `values` is laid over the files: {"receivers.otlp.protocols.http.endpoint": "…"}."""
    command = [program, *(f"--config={file}" for file in files)]
    return [*command, *(f"--set={path}={json.dumps(value)}" for path, value in values.items())]


@contextmanager
def collector(
    folder: Path, files: list[Path], values: dict[str, object], **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Ready, as its health check says; its log is FOLDER/log."""
    folder.mkdir(parents=True, exist_ok=True)
    health = free_port()
    own_ports = {
        "extensions.health_check.endpoint": f"127.0.0.1:{health}",
        "exporters.prometheus.endpoint": f"127.0.0.1:{free_port()}",
        "service.telemetry.metrics.level": "none",  # else each would listen on port 8888
    }
    command = with_values(collector_program(), files, {**own_ports, **values})
    with running(command, ("127.0.0.1", health), log=folder / "log", env=environment(**env)) as process:
        wait_until(lambda: answer(f"http://127.0.0.1:{health}/") is not None, f"it is healthy; see {folder}/log")
        yield process


def answer(url: str) -> Any:
    """The document there; None for a status that is an error."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError:
        return None


@dataclass(frozen=True)
class Jaeger:
    """Where it takes spans and where it is asked for them."""

    otlp_grpc: str
    otlp_http: str
    query: str

    def services(self) -> list[str]:
        return answer(f"{self.query}/api/services")["data"] or []  # null before the first span

    def trace(self, trace_id: str) -> dict[str, Any] | None:
        """As its own web page asks for it; None while it knows no such trace."""
        found = answer(f"{self.query}/api/traces/{trace_id}")
        return found["data"][0] if found and found["data"] else None

    def otlp_spans(self, trace_id: str) -> list[Span]:
        """The same as OTLP, by the stable query API."""
        found = answer(f"{self.query}/api/v3/traces/{trace_id}")
        return list(spans_of_json(found["result"])) if found else []

    def traces_of(self, service: str, limit: int = 1000) -> list[dict[str, Any]]:
        return answer(f"{self.query}/api/traces?service={service}&limit={limit}&lookback=1h")["data"] or []


@contextmanager
def jaeger(folder: Path, *, query_port: int = 0) -> Iterator[Jaeger]:
    """collector-config/jaeger/jaeger.yaml on ports of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    grpc, http, query_grpc, health = (f"127.0.0.1:{free_port()}" for _ in range(4))
    query = f"127.0.0.1:{query_port or free_port()}"
    values = {
        "receivers.otlp.protocols.grpc.endpoint": grpc,
        "receivers.otlp.protocols.http.endpoint": http,
        "extensions.jaeger_query.http.endpoint": query,
        "extensions.jaeger_query.grpc.endpoint": query_grpc,
        "extensions.healthcheckv2.http.endpoint": health,
    }
    command = with_values(jaeger_program(), [CONFIGURATIONS / "jaeger" / "jaeger.yaml"], values)
    host, _, port = query.partition(":")
    with running(command, (host, int(port)), log=folder / "log"):
        wait_until(lambda: is_healthy(f"http://{health}/status"), f"Jaeger is healthy; see {folder}/log")
        yield Jaeger(grpc, f"http://{http}", f"http://{query}")


def spans_of_json(document: dict[str, Any]) -> Iterator[Span]:
    """The spans of OTLP in JSON: ids are hexadecimal, numbers of 64 bits are text, what is empty is left out."""
    for part in document["resourceSpans"]:
        resource = attributes_of_json(part["resource"])
        for scope in part["scopeSpans"]:
            for span in scope["spans"]:
                yield Span(
                    name=span["name"],
                    kind=span["kind"],
                    trace_id=bytes.fromhex(span["traceId"]),
                    span_id=bytes.fromhex(span["spanId"]),
                    parent_span_id=bytes.fromhex(span.get("parentSpanId", "")),
                    trace_state=span.get("traceState", ""),
                    flags=span.get("flags", 0),
                    start_unix_ns=int(span["startTimeUnixNano"]),
                    end_unix_ns=int(span["endTimeUnixNano"]),
                    status_code=span["status"].get("code", 0),
                    attributes=attributes_of_json(span),
                    resource=resource,
                )


def attributes_of_json(holder: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: value_of_json(pair["value"]) for pair in holder.get("attributes", [])}


def value_of_json(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [value_of_json(item) for item in content["values"]]
    return int(content) if kind == "intValue" else content


def written_spans(output: Path) -> list[Span]:
    """What a collector's file exporter has written so far, whole lines only."""
    if not output.exists():
        return []
    lines = output.read_text().rpartition("\n")[0].splitlines()
    return [span for line in lines for span in spans_of_json(json.loads(line))]


def is_healthy(url: str) -> bool:
    try:
        found = answer(url)
    except OSError:  # not yet listening
        return False
    return found is not None and found["status"] == "StatusOK"


@contextmanager
def otlp_collector(
    folder: Path, protocol: str, files: list[Path], values: dict[str, object], **env: str
) -> Iterator[Sink]:
    """A collector that receives by one protocol; where it listens."""
    grpc, http = free_port(), free_port()
    receivers = {
        "receivers.otlp.protocols.grpc.endpoint": f"127.0.0.1:{grpc}",
        "receivers.otlp.protocols.http.endpoint": f"127.0.0.1:{http}",
    }
    with collector(folder, files, {**receivers, **values}, **env):
        port = grpc if protocol == "grpc" else http
        wait_until(lambda: is_listening(("127.0.0.1", port)), "the collector listens")
        yield Sink(f"http://127.0.0.1:{port}", protocol)


@contextmanager
def collector_and_jaeger(folder: Path) -> Iterator[tuple[Sink, Path, Jaeger]]:
    """collector-config/jaeger/: where the Collector listens, the file where it leaves the spans as well, and Jaeger."""
    output = folder / "collector" / "spans.jsonl"
    values = {"exporters.file.path": str(output), "service.pipelines.traces.exporters": ["otlp_grpc/jaeger", "file"]}
    files, queue = [CONFIGURATIONS / "jaeger" / "collector.yaml"], str(output.with_name("queue"))
    with (
        jaeger(folder / "jaeger") as backend,
        otlp_collector(
            output.parent, "http/protobuf", files, values, JAEGER=backend.otlp_grpc, QUEUE_FOLDER=queue
        ) as sink,
    ):
        yield sink, output, backend


@contextmanager
def filing_collector(folder: Path, protocol: str) -> Iterator[tuple[Sink, Path]]:
    """debug.yaml, but into files as it comes; where it listens, and its file of spans. Metrics lie beside it."""
    output = folder / "spans.jsonl"
    values: dict[str, object] = {
        "exporters.file.path": str(output),
        "exporters.file/metrics.path": str(output.with_name("metrics.jsonl")),
        "service.pipelines.traces": {"receivers": ["otlp"], "processors": [], "exporters": ["file"]},
        "service.pipelines.metrics": {"receivers": ["otlp"], "processors": [], "exporters": ["file/metrics"]},
    }
    with otlp_collector(folder, protocol, [CONFIGURATIONS / "debug.yaml"], values) as sink:
        yield sink, output
