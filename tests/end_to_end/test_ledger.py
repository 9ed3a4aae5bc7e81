"""Two services: each one's account balances on its own, against its own access log; `otel-ebpf status` tells the same."""

import os
import socket
import threading
from pathlib import Path

import pytest

from tests.end_to_end.accounts import read_accounts, read_service_accounts
from tests.end_to_end.agent import Agent, kill_session, start_agent
from tests.end_to_end.sink import SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.status import ask_status, numbers_of
from tests.end_to_end.test_load import logged_requests, wait_until_quiet
from tests.end_to_end.truth import belongs_to
from tests.services.load import run_wrk
from tests.services.plan import make_call
from tests.services.processes import wait_until
from tests.services.servers import Running, counting_nginx

REQUESTS = 10_000  # of each service, at the least


def load_both(services: list[tuple[Running, Path]], target: str) -> None:
    """At the same time, until each has logged enough."""

    def load(server: Running, log: Path) -> None:
        while logged_requests(log) < REQUESTS:
            run_wrk(server, target, seconds=1, connections=4)

    threads = [threading.Thread(target=load, args=service) for service in services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("ring", ["8MiB", "64KiB"], ids=["default-ring", "tiny-ring"])
def test_each_services_account_is_its_access_log(ring: str, prefix: str, status_socket: str, stage: Stage) -> None:
    """nginx's own logs are the truth. With the tiny ring much is lost, of both, and the loss of each is its own."""
    services = [stage.ends.enter_context(counting_nginx(stage.new_folder(f"nginx-{name}"))) for name in "ab"]
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=",".join(str(server.port) for server, _ in services),
        OTEL_EBPF_RING_BYTES=ring,
        OTEL_EBPF_STATUS_SOCKET=status_socket,
    )
    load_both(services, make_call(f"{prefix}load", "GET", 200, 1000).target)
    wait_until_quiet(stage, sum(logged_requests(log) for _, log in services))

    def status_is_settled() -> str | None:
        """The kernel's counts are read once a second."""
        asked = ask_status(status_socket)
        assert 0 == asked.returncode, asked.stderr
        for server, log in services:
            numbers = numbers_of(asked.stdout, server.pid)
            if numbers.get("began") != logged_requests(log) or "open" in numbers:
                return None
        return asked.stdout

    status = wait_until(status_is_settled, "the status tells of every request")
    agent.assert_clean_stop()

    of_service = read_service_accounts(agent.messages)
    spans = stage.sink.wait_for(0, belongs_to(prefix, SERVER), settle_s=0)
    assert {server.pid for server, _ in services} == of_service.keys()
    for server, log in services:
        accounts = of_service[server.pid]
        exported = sum(server.port == span.attributes["server.port"] for span in spans)
        assert logged_requests(log) == accounts.began
        assert accounts.began == accounts.spans + accounts.lost, accounts.losses
        assert exported == accounts.spans
        if ring == "64KiB":
            assert accounts.losses["lost, ring full"] > 0
        shown = numbers_of(status, server.pid)
        assert (accounts.began, accounts.spans) == (shown["began"], shown["spans"])
        assert accounts.losses.items() <= shown.items()
    host = read_accounts(agent.messages)
    assert host.began == sum(accounts.began for accounts in of_service.values())
    assert host.lost == sum(accounts.lost for accounts in of_service.values())
    assert not Path(status_socket).exists()


def test_what_cannot_be_seen_is_named_for_its_service(status_socket: str, stage: Stage) -> None:
    """Connections that begin with TLS or HTTP/2 at a server that is watched."""
    server = stage.server("nginx")
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_STATUS_SOCKET=status_socket)
    for first_bytes in [b"\x16\x03\x01\x00\x05hello"] * 3 + [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]:
        with socket.create_connection((server.host, server.port)) as client:
            client.sendall(first_bytes)
            client.recv(4096)  # nginx has read them once it answers or closes

    def is_told() -> bool:
        status = ask_status(status_socket).stdout
        return "3 TLS connections, of which no plain text was seen" in status and "1 connections speak HTTP/2" in status

    wait_until(is_told, "both are named")


def test_a_second_agent_works_without_status_and_the_first_one_keeps_its_own(
    prefix: str, status_socket: str, stage: Stage
) -> None:
    server, other = stage.server("nginx"), stage.server("nginx")
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_STATUS_SOCKET=status_socket)
    second = stage.agent(is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=other.port, OTEL_EBPF_STATUS_SOCKET=status_socket)
    assert f"another agent listens at {status_socket}" in second.messages
    assert "OTEL_EBPF_STATUS_SOCKET" in second.messages

    second.assert_clean_stop()
    asked = ask_status(status_socket)
    assert 0 == asked.returncode, asked.stderr
    assert f"(pid {server.pid})" in asked.stdout
    assert f"(pid {other.pid})" not in asked.stdout


def test_after_kill_9_nothing_answers_and_the_next_agent_takes_over(status_socket: str, stage: Stage) -> None:
    server = stage.server("nginx")
    settings = {
        "OTEL_EBPF_OPEN_PORT": str(server.port),
        "OTEL_EBPF_STATUS_SOCKET": status_socket,
        "OTEL_EBPF_CACHE_DIR": str(stage.bytecode_cache),
    }
    killed: Agent = start_agent(stage.new_folder("agent"), stage.sink, settings)
    try:
        killed.wait_until_ready()
        assert 0 == ask_status(status_socket).returncode
    finally:
        kill_session(killed.process)
    assert Path(status_socket).exists()
    asked = ask_status(status_socket)
    assert 1 == asked.returncode
    assert "no agent listens" in asked.stderr

    stage.agent(**{name: value for name, value in settings.items() if name != "OTEL_EBPF_CACHE_DIR"})
    assert 0 == ask_status(status_socket).returncode


def test_nobody_but_root_may_ask(status_socket: str, stage: Stage) -> None:
    server = stage.server("nginx")
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_STATUS_SOCKET=status_socket)
    Path(status_socket).parent.chmod(0o755)  # the folder lets through: the socket itself does not
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(status_socket)
        except PermissionError:
            status = 0
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
