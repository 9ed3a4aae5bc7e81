"""Where spans go: over http and gRPC, to a real Collector, and to none, a late, a sick or a picky one."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.end_to_end.backends import CONFIGURATIONS, otlp_collector, written_spans
from tests.end_to_end.sink import SERVER, Sink, grpc_sink, http_sink
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences
from tests.services.load import SteadyClient
from tests.services.plan import all_calls, make_call
from tests.services.processes import free_port, wait_until

# Its own deadline is 2 s; without one, a silent collector would be waited for as long as one export may take.
FAR_BELOW_AN_EXPORT_S, EXPORT_MS = 30.0, 120_000


def test_spans_arrive_over_grpc(prefix: str, stage: Stage) -> None:
    server = stage.server("go")
    sink = stage.ends.enter_context(grpc_sink())
    stage.agent(sink=sink, OTEL_EBPF_OPEN_PORT=server.port)

    results = stage.client("http.client", server, all_calls(prefix)).send()

    assert [] == differences(results, sink.wait_for(len(results), belongs_to(prefix)), SERVER)


def test_compressed_spans_arrive(prefix: str, stage: Stage) -> None:
    server = stage.server("go")
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EXPORTER_OTLP_COMPRESSION="gzip")

    results = stage.client("http.client", server, all_calls(prefix)).send()

    assert [] == differences(results, stage.sink.wait_for(len(results), belongs_to(prefix)), SERVER)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_real_collector_receives_every_span(protocol: str, prefix: str, stage: Stage) -> None:
    """collector-config/debug.yaml prints them; a file beside it shows that each is right."""
    server = stage.server("go")
    folder = stage.new_folder("collector")
    output = folder / "spans.jsonl"
    also_to_a_file = {
        "exporters.file.path": str(output),
        "service.pipelines.traces.exporters": ["debug", "file"],
    }
    collector = stage.ends.enter_context(
        otlp_collector(folder, protocol, [CONFIGURATIONS / "debug.yaml"], also_to_a_file)
    )
    stage.agent(sink=collector, OTEL_EBPF_OPEN_PORT=server.port)

    results = stage.client("http.client", server, all_calls(prefix)).send()

    def not_printed() -> list[str]:
        printed = (folder / "log").read_text()
        return [result.id for result in results if f"Str(/{result.id}/" not in printed]

    wait_until(lambda: len(written_spans(output)) >= len(results), "all spans in the collector's file")
    assert [] == differences(results, written_spans(output), SERVER)
    wait_until(lambda: not not_printed(), "all spans are printed")


def test_spans_wait_for_a_collector_that_comes_late(prefix: str, stage: Stage) -> None:
    """Nothing listens at first: the app is not held up, the queue keeps the spans, one message says so."""
    port = free_port()
    server = stage.server("go")
    stage.agent(sink=Sink(f"http://127.0.0.1:{port}", "http/protobuf"), OTEL_EBPF_OPEN_PORT=server.port)
    results = stage.client("http.client", server, all_calls(prefix)).send()

    late = stage.ends.enter_context(http_sink(port))

    # A connection is tried again with growing pauses, up to 30 s.
    assert [] == differences(results, late.wait_for(len(results), belongs_to(prefix), seconds=90), SERVER)


@pytest.mark.parametrize("status", [503, 400])
def test_refusing_collector_is_told_once_and_survived(status: int, prefix: str, stage: Stage) -> None:
    """503 asks to come again; 400 refuses for good: those spans are a counted loss. Later ones arrive."""
    server = stage.server("go")
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=server.port)
    stage.sink.refuse_with = status
    stage.client("http.client", server, all_calls(f"{prefix}a")).send()
    agent.wait_for_message(str(status))

    stage.sink.refuse_with = None
    results = stage.client("http.client", server, all_calls(f"{prefix}b")).send()

    spans = stage.sink.wait_for(len(results), belongs_to(f"{prefix}b"), seconds=90)
    assert [] == differences(results, spans, SERVER)


@pytest.mark.parametrize("collector", ["present", "absent", "silent"])
def test_sigterm_under_load_ends_by_its_deadline(collector: str, prefix: str, stage: Stage) -> None:
    """Whatever the collector does; the app does not notice."""
    server = stage.server("nginx")
    sink = {"present": stage.sink, "absent": Sink(f"http://127.0.0.1:{free_port()}", "http/protobuf")}.get(collector)
    if sink is None:
        sink = stage.ends.enter_context(silent_collector())
    agent = stage.agent(
        sink=sink,
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_SHUTDOWN_TIMEOUT="2s",
        OTEL_EXPORTER_OTLP_TIMEOUT=EXPORT_MS,
        OTEL_BSP_EXPORT_TIMEOUT=EXPORT_MS,
        OTEL_METRIC_EXPORT_TIMEOUT=EXPORT_MS,
    )

    with SteadyClient(server, make_call(f"{prefix}load", "GET", 200, 1000).target) as load:
        wait_until(lambda: load.answered > 1000, "the load runs")
        programs = agent.program_ids()
        began = time.monotonic()
        agent.stop()
        took_s = time.monotonic() - began
        at_end = load.answered
        wait_until(lambda: load.answered > at_end + 500, "the app goes on")

    assert 0 == agent.process.returncode, agent.messages
    assert took_s < FAR_BELOW_AN_EXPORT_S
    assert programs
    assert [] == load.failures


@contextmanager
def silent_collector() -> Iterator[Sink]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", free_port()), backlog=64) as listener:
        yield Sink(f"http://127.0.0.1:{listener.getsockname()[1]}", "http/protobuf")
