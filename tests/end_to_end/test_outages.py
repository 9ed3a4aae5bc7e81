"""The agent with OTEL_EBPF_SPOOL_DIR: outages, restarts, kill -9 and a full disk, as a user meets them."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.agent import Agent
from tests.end_to_end.sink import SERVER, Sink, grpc_sink, http_sink
from tests.end_to_end.stage import Stage
from tests.end_to_end.status import status_document
from tests.end_to_end.truth import belongs_to, differences
from tests.services.load import run_wrk
from tests.services.plan import all_calls, calls_without_body, make_call
from tests.services.processes import free_port, wait_until
from tests.services.servers import public_folder
from tests.soak.runs import is_drained, spans_of

ENOUGH_TO_FILL_BOTH = 6_000  # about 3 MB


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_spans_of_an_outage_arrive_through_the_next_agent(protocol: str, prefix: str, stage: Stage) -> None:
    """Stopped in an outage: all is on disk, in a folder for the exporter's user alone, and nothing is lost."""
    server, port = stage.server("go"), free_port()
    absent = Sink(f"http://127.0.0.1:{port}", protocol)
    folder = stage.ends.enter_context(public_folder()) / "spool"
    agent = spooling(stage, absent, folder, server.port)
    results = stage.client("http.client", server, all_calls(f"{prefix}a")).send()
    agent.wait_for_message("takes no spans")
    agent.assert_clean_stop()
    first = read_accounts(agent.messages)
    assert (65534, 0o700) == (folder.stat().st_uid, folder.stat().st_mode & 0o777)
    assert ({}, len(results)) == (first.losses, first.numbers["on disk"])

    sink = stage.ends.enter_context(grpc_sink(port) if protocol == "grpc" else http_sink(port))
    agent = spooling(stage, sink, folder, server.port)
    results += stage.client("http.client", server, all_calls(f"{prefix}b")).send()

    assert [] == differences(results, sink.wait_for(len(results), belongs_to(prefix)), SERVER)
    agent.assert_clean_stop()
    second = read_accounts(agent.messages)
    assert ({}, first.spans) == (second.losses, second.numbers["found on disk"])
    assert first.spans + second.spans == second.exported


def spooling(stage: Stage, sink: Sink, folder: Path, port: int, **settings: object) -> Agent:
    return stage.agent(
        sink=sink, is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=port, OTEL_EBPF_SPOOL_DIR=folder, **settings
    )


@pytest.mark.parametrize("victim", ["probe", "exporter"])
def test_what_is_on_disk_survives_kill_9(victim: str, prefix: str, stage: Stage) -> None:
    server, port = stage.server("go"), free_port()
    folder = stage.ends.enter_context(public_folder()) / "spool"
    agent = spooling(stage, Sink(f"http://127.0.0.1:{port}", "http/protobuf"), folder, server.port)
    calls = calls_without_body(prefix)
    results = stage.client("http.client", server, calls).send()
    wait_until(lambda: all(call.path.encode() in written(folder) for call in calls), "every span is on disk")
    os.kill(agent.probe_pid if victim == "probe" else agent.exporter_pid, signal.SIGKILL)
    agent.wait_until_ended()

    sink = stage.ends.enter_context(http_sink(port))
    spooling(stage, sink, folder, server.port)

    assert [] == differences(results, sink.wait_for(len(results), belongs_to(prefix)), SERVER)


def written(folder: Path) -> bytes:
    """All that the files hold; a span's path stands in them as it is."""
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_full_disk_is_told_once_and_every_span_is_counted(prefix: str, status_socket: str, stage: Stage) -> None:
    """Half a MiB of disk, and a queue that holds a part of the rest."""
    server, port = stage.server("nginx"), free_port()
    folder = stage.ends.enter_context(small_disk(512 * 1024))
    absent = Sink(f"http://127.0.0.1:{port}", "http/protobuf")
    agent = spooling(
        stage, absent, folder, server.port, OTEL_EBPF_QUEUE_BYTES="1MiB", OTEL_EBPF_STATUS_SOCKET=status_socket
    )
    target = make_call(f"{prefix}load", "GET", 200, 1000).target
    while spans_of(status_document(status_socket)["collector"]) < ENOUGH_TO_FILL_BOTH:
        run_wrk(server, target, seconds=1, connections=2)
    agent.wait_for_message("disk is full")

    sink = stage.ends.enter_context(http_sink(port))
    # The collector is tried again after 30 s at most.
    wait_until(lambda: "takes spans again" in agent.messages, "the collector is found again", seconds=90)
    wait_until(lambda: is_drained(status_document(status_socket)["collector"]), "all is sent")
    agent.assert_clean_stop()

    accounts = read_accounts(agent.messages)
    assert accounts.losses["dropped"] > 0, "too few requests to fill anything"
    assert accounts.spans == accounts.exported + accounts.losses["dropped"] + accounts.numbers.get("on disk", 0)
    assert sink.span_count == accounts.exported
    assert 1 == agent.messages.count("cannot keep spans")


@contextmanager
def small_disk(size_bytes: int) -> Iterator[Path]:
    with public_folder() as public:
        disk = public / "disk"
        disk.mkdir()
        options = f"size={size_bytes},mode=0700,uid=65534,gid=65534"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "spool", str(disk)], check=True, timeout=60)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=60)


def test_folder_that_cannot_be_used_ends_the_start_with_a_remedy(stage: Stage) -> None:
    """Before anything is watched: somebody who wants a spool must not find out in an outage that there is none."""
    server = stage.server("go")
    folder = stage.ends.enter_context(public_folder())
    (folder / "file").touch()

    with pytest.raises(AssertionError, match="the agent ended with 1") as caught:
        spooling(stage, stage.sink, folder, server.port)
    assert "OTEL_EBPF_SPOOL_DIR" in str(caught.value)
    assert "chmod 700" in str(caught.value)
    assert 1 == str(caught.value).count("otel-ebpf: ")
