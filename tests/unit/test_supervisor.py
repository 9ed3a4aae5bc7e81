from typing import Any

import pytest

from otel_ebpf import supervisor
from otel_ebpf.config import Settings
from otel_ebpf.errors import PreflightError
from otel_ebpf.probe.discovery import Target
from otel_ebpf.probe.programs import (
    GO_PROGRAMS,
    LOOKUP_PROGRAMS,
    NODE_PROGRAMS,
    NODE_PROMISES_PROGRAMS,
    PYTHON_PROGRAMS,
    TLS_PROGRAMS,
    ProgramGroup,
    SocketBackend,
)
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.supervisor import UNSETTLED, capabilities_to_keep, require_rights, start_lines

HOOKS = SocketHooks(SocketBackend.TRACEPOINT, "there is nothing else")
SPLIT = frozenset({"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID"})


def test_missing_rights_are_named_with_what_they_are_for_and_the_remedy():
    with pytest.raises(PreflightError) as refusal:
        require_rights(SPLIT - {"CAP_BPF"})

    assert "CAP_BPF to load BPF programs" in refusal.value.what
    assert "Run as root" in refusal.value.remedy


def test_rights_that_are_there_are_no_error():
    require_rights(SPLIT)


def test_the_probe_keeps_sys_admin_only_where_it_stands_for_others():
    assert "CAP_SYS_ADMIN" not in capabilities_to_keep(SPLIT | {"CAP_SYS_ADMIN"})
    assert "CAP_SYS_ADMIN" in capabilities_to_keep(frozenset({"CAP_SYS_ADMIN"}))
    assert "CAP_SYS_ADMIN" in capabilities_to_keep(SPLIT | {"CAP_SYS_ADMIN"}, needs_admin=True)


def test_the_start_says_how_to_try_it_when_nothing_is_there_to_watch():
    settings, _ = Settings.from_environ({})

    assert any("curl" in line for line in start_lines(settings, HOOKS, []))
    assert not any("curl" in line for line in start_lines(settings, HOOKS, [Target(7, 7, "it listens", 1)]))


def test_the_start_names_the_collector_of_each_signal():
    settings, _ = Settings.from_environ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})

    for path in ("v1/traces", "v1/metrics"):
        assert any(f"http://c:4318/{path}" in line for line in start_lines(settings, HOOKS, []))


@pytest.mark.parametrize("is_settled", [True, False])
def test_the_start_says_what_is_not_seen_yet(is_settled: bool):
    settings, _ = Settings.from_environ({})

    first, *_ = start_lines(settings, HOOKS, [], is_settled=is_settled)
    assert is_settled == (UNSETTLED not in first)


def test_the_start_says_where_prometheus_scrapes():
    settings, _ = Settings.from_environ({"OTEL_EBPF_PROMETHEUS_PORT": "9464"})

    assert "Prometheus scrapes any address, port 9464, /metrics" in start_lines(settings, HOOKS, [])


@pytest.mark.parametrize(("parents", "has_links"), [("normal", True), ("strict", True), ("off", False)])
def test_without_links_nothing_is_wanted_for_them(parents: str, has_links: bool) -> None:
    settings, _ = Settings.from_environ({"OTEL_EBPF_PARENTS": parents})

    of_links = {PYTHON_PROGRAMS, GO_PROGRAMS, NODE_PROGRAMS} if has_links else set()
    assert {TLS_PROGRAMS, LOOKUP_PROGRAMS, *of_links} == set(supervisor.wanted_uprobes(settings).values())


@pytest.mark.parametrize(
    ("how", "groups"),
    [("off", set()), ("ids", {NODE_PROGRAMS}), ("promises", {NODE_PROGRAMS, NODE_PROMISES_PROGRAMS})],
)
def test_of_node_no_more_is_wanted_than_asked_for(how: str, groups: set[ProgramGroup]) -> None:
    settings, _ = Settings.from_environ({"OTEL_EBPF_NODE_PARENTS": how})

    wanted = supervisor.wanted_uprobes(settings).values()

    assert groups == {NODE_PROGRAMS, NODE_PROMISES_PROGRAMS} & set(wanted)


def test_where_uprobes_are_impossible_each_lack_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    settings, _ = Settings.from_environ({})
    nothing: Any = None

    supervisor.offer_uprobes(supervisor.wanted_uprobes(settings), None, nothing, nothing)

    told = capfd.readouterr().err
    for what in ("TLS is not read", "names that are looked up are not seen", "calls of Python have no parent"):
        assert f"{what}: this kernel or these rights allow no uprobes" in told
