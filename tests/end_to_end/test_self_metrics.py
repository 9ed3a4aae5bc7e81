"""The ledger and the agent's own state, as metrics."""

import socket

import pytest
from prometheus_client import Metric as Family

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.hooks import hooks_in_use
from tests.end_to_end.stage import Stage
from tests.end_to_end.test_load import logged_requests, wait_until_quiet
from tests.end_to_end.test_metrics import attributes, points
from tests.end_to_end.test_pages import DURATION, requests_of, scrape
from tests.services.load import run_wrk
from tests.services.plan import make_call
from tests.services.processes import free_port, wait_until
from tests.services.servers import counting_nginx

REQUESTS = 10_000


def numbers(families: dict[str, Family], name: str, label: str = "", **labels: str) -> dict[str, float]:
    """By one label, of the samples that have the others."""
    family = families.get(name)
    return {
        sample.labels.get(label, ""): sample.value
        for sample in (family.samples if family else [])
        if labels.items() <= sample.labels.items() and not sample.name.endswith("_created")
    }


@pytest.mark.parametrize("ring", ["8MiB", "64KiB"], ids=["default-ring", "tiny-ring"])
def test_the_ledger_of_each_service_is_its_access_log(ring: str, prefix: str, stage: Stage) -> None:
    """Began = spans + each loss under its reason, by service and for the host; what was measured is what gave a span."""
    server, log = stage.ends.enter_context(counting_nginx(stage.new_folder("nginx")))
    port = free_port()
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_RING_BYTES=ring,
        OTEL_EBPF_PROMETHEUS_PORT=f"127.0.0.1:{port}",
    )
    while logged_requests(log) < REQUESTS:
        run_wrk(server, make_call(f"{prefix}load", "GET", 200, 1000).target, seconds=1, connections=4)
    wait_until_quiet(stage, logged_requests(log))

    def settled() -> dict[str, Family] | None:
        """The kernel's counts are read once a second."""
        families = scrape(port)
        began = numbers(families, "otel_ebpf_requests_began", job="nginx").get("")
        is_open = any(numbers(families, "otel_ebpf_requests_open", job="nginx").values())
        return families if began == logged_requests(log) and not is_open else None

    families = wait_until(settled, "the ledger tells of every request")
    agent.assert_clean_stop()

    accounts = read_accounts(agent.messages)
    for name, job in (("otel_ebpf_requests", "nginx"), ("otel_ebpf_host_requests", "otel-ebpf")):
        assert {"": accounts.began} == numbers(families, f"{name}_began", job=job)
        results = numbers(families, f"{name}_results", "otel_ebpf_result", job=job)
        assert accounts.spans == results.pop("span")
        assert accounts.losses == {reason: count for reason, count in results.items() if count}
        if ring == "64KiB":
            assert results["lost, ring full"] > 0
    assert accounts.spans == sum(requests_of(families).values())
    # The same over OTLP, at the end.
    last = stage.sink.metrics[-1]
    (began,) = points(last, "otel_ebpf.requests.began")
    (of_host,) = points(last, "otel_ebpf.host.requests.began")
    assert (accounts.began, accounts.began) == (began.as_int, of_host.as_int)
    results = {
        attributes(point)["otel_ebpf.result"]: point.as_int for point in points(last, "otel_ebpf.requests.results")
    }
    assert {"span": accounts.spans, **accounts.losses} == {reason: count for reason, count in results.items() if count}


def hooks_of(port: int) -> dict[str, float]:
    """Of uprobes, the form depends on the kernel."""
    found = numbers(scrape(port), "otel_ebpf_hooks_attached", "otel_ebpf_hooks")
    return {name.partition(" (")[0]: count for name, count in found.items()}


def test_the_agent_tells_of_its_own_parts(prefix: str, stage: Stage) -> None:
    """Read by a process without rights: what it exported, its records and ring, time and memory of both processes."""
    server, port = stage.server("go"), free_port()
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_PROMETHEUS_PORT=f"127.0.0.1:{port}")
    calls = [make_call(f"{prefix}{number}", "GET", 200, 10) for number in range(20)]
    stage.client("http.client", server, calls).send()

    def exported() -> dict[str, Family] | None:
        families = scrape(port)
        return families if numbers(families, "otel_sdk_exporter_span_exported", "error_type").get("") == 20 else None

    families = wait_until(exported, "all spans are exported")
    assert {"": 20, "queue_full": 0} == numbers(families, "otel_sdk_processor_span_processed", "error_type")
    assert {"": 0} == numbers(families, "otel_sdk_processor_span_queue_size")
    wait_until(
        lambda: hooks_of(port) == {hooks_in_use().partition(" (")[0]: 1, "uprobes": 1}, "TLS in the Go program is told"
    )
    records = numbers(families, "otel_ebpf_records", "otel_ebpf_record_kind")
    assert 20 == records["request"]
    assert {"": 8 << 20} == numbers(families, "otel_ebpf_ring_limit_bytes")
    lookups = numbers(families, "otel_ebpf_lookups", "otel_ebpf_result")
    assert dict.fromkeys(("taken", "taken_back", "forgotten", "unreadable", "ring_full", "failed"), 0) == lookups
    memory = numbers(families, "otel_ebpf_process_memory_usage_bytes", "otel_ebpf_process")
    assert {"probe", "exporter"} == memory.keys()
    assert all(5_000_000 < resident < 500_000_000 for resident in memory.values())
    cpu = numbers(families, "otel_ebpf_process_cpu_time_seconds", "cpu_mode", otel_ebpf_process="exporter")
    assert {"user", "system"} == cpu.keys()
    assert 0 < sum(cpu.values())
    assert {1} == set(
        numbers(families, "otel_ebpf_processes", job=families[DURATION].samples[0].labels["job"]).values()
    )
    assert agent.is_running


def test_what_cannot_be_seen_is_a_metric_of_its_service(stage: Stage) -> None:
    """A connection that begins with TLS, at a server that is watched."""
    server, port = stage.server("nginx"), free_port()
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_PROMETHEUS_PORT=f"127.0.0.1:{port}")
    with socket.create_connection((server.host, server.port)) as client:
        client.sendall(b"\x16\x03\x01\x00\x05hello")
        client.recv(4096)

    wait_until(
        lambda: numbers(scrape(port), "otel_ebpf_not_visible", "otel_ebpf_kind", job="nginx") == {"tls": 1},
        "it is told",
    )
