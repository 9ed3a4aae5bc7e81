from typing import Any

import pytest

from otel_ebpf import supervisor
from otel_ebpf.config import Settings
from otel_ebpf.errors import PreflightError
from otel_ebpf.probe.discovery import Target
from otel_ebpf.probe.programs import SocketBackend
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.uprobes import UprobeForm
from otel_ebpf.supervisor import capabilities_to_keep, require_rights, start_lines

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


def test_the_start_says_where_prometheus_scrapes():
    settings, _ = Settings.from_environ({"OTEL_EBPF_PROMETHEUS_PORT": "9464"})

    assert "Prometheus scrapes any address, port 9464, /metrics" in start_lines(settings, HOOKS, [])


@pytest.mark.parametrize(("parents", "is_loaded"), [("normal", True), ("strict", True), ("off", False)])
def test_without_links_nothing_is_loaded_for_them(
    parents: str, is_loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    for name in ("load_tls", "load_lookups", "load_python", "load_go", "load_node", "load_nginx"):
        monkeypatch.setattr(supervisor, name, lambda *_, name=name: loaded.append(name))
    monkeypatch.setattr(supervisor, "available_forms", lambda: iter([UprobeForm.MULTI]))
    settings, _ = Settings.from_environ({"OTEL_EBPF_PARENTS": parents})
    nothing: Any = None

    supervisor.load_uprobes_if_wanted(settings, nothing, nothing)

    assert {"load_tls", "load_lookups"} | (
        {"load_python", "load_go", "load_node", "load_nginx"} if is_loaded else set()
    ) == set(loaded)


@pytest.mark.parametrize(
    ("how", "loaded"),
    [("off", set()), ("ids", {"load_node"}), ("promises", {"load_node", "load_node_promises"})],
)
def test_of_node_no_more_is_loaded_than_asked_for(how: str, loaded: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[str] = set()
    for name in ("load_tls", "load_lookups", "load_python", "load_go", "load_node", "load_node_promises", "load_nginx"):
        monkeypatch.setattr(supervisor, name, lambda *_, name=name: found.add(name))
    monkeypatch.setattr(supervisor, "available_forms", lambda: iter([UprobeForm.MULTI]))
    settings, _ = Settings.from_environ({"OTEL_EBPF_NODE_PARENTS": how})
    nothing: Any = None

    supervisor.load_uprobes_if_wanted(settings, nothing, nothing)

    assert loaded == {name for name in found if "node" in name}
