import os
from pathlib import Path

import pytest

from otel_ebpf.probe import capabilities, go_program, preflight, python_watch
from otel_ebpf.probe.preflight import LINKED, Finding, Host, examine
from otel_ebpf.probe.uprobes import UprobeForm

RUNNING = os.uname().release


def only(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_everything_is_reported_once_and_each_lack_with_a_remedy():
    """Runs as any user: what needs root says so."""
    findings = examine(Host(cache_dir=None))

    names = [finding.name for finding in findings]
    assert sorted(set(names)) == sorted(names)
    expected = {"rights", "kernel", "kernel types", "bcc", "ring buffer", "tracepoint sys_exit", "tracefs", "lockdown"}
    assert expected <= set(names)
    assert [] == [finding for finding in findings if not finding.ok and not finding.remedy]
    assert all("\n" not in finding.remedy for finding in findings)


def test_confidentiality_lockdown_is_a_lack(tmp_path: Path):
    """kernel_lockdown(7): it forbids BPF to read kernel memory; integrity does not."""
    write(tmp_path / "sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
    assert not only(preflight.lockdown(Host(tmp_path)), "lockdown").ok

    write(tmp_path / "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    assert only(preflight.lockdown(Host(tmp_path)), "lockdown").ok


def test_a_kernel_without_lockdown_lacks_nothing(tmp_path: Path):
    assert only(preflight.lockdown(Host(tmp_path)), "lockdown").ok


def test_without_btf_only_matching_headers_will_do(tmp_path: Path):
    release_file = tmp_path / "lib/modules" / RUNNING / "build/include/generated/utsrelease.h"
    assert "no headers" in only(preflight.kernel_types(Host(tmp_path)), "kernel types").detail

    write(release_file, '#define UTS_RELEASE "5.4.0"\n')
    wrong = only(preflight.kernel_types(Host(tmp_path)), "kernel types")
    assert (False, True) == (wrong.ok, "5.4.0" in wrong.detail)

    write(release_file, f'#define UTS_RELEASE "{RUNNING}"\n')
    assert only(preflight.kernel_types(Host(tmp_path)), "kernel types").ok


def test_hooks_of_later_use_are_found_by_their_place_in_sysfs(tmp_path: Path):
    findings = preflight.optional_hooks(Host(tmp_path))
    assert [False, False] == [finding.ok for finding in findings]
    assert not any(finding.required for finding in findings)

    (tmp_path / "sys/bus/event_source/devices/kprobe").mkdir(parents=True)
    (tmp_path / "sys/kernel/debug/tracing/events").mkdir(parents=True)
    findings = preflight.optional_hooks(Host(tmp_path))
    assert [True, True] == [finding.ok for finding in findings]
    assert "/sys/kernel/debug/tracing" in only(findings, "tracefs").detail


def test_a_folder_that_cannot_be_looked_at_is_not_visible(tmp_path: Path):
    """Debian's 6.1 closes tracefs to all but root; a name that is too long fails for root, too."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/tracing").symlink_to("x" * 300)
    finding = only(preflight.optional_hooks(Host(tmp_path)), "tracefs")

    assert (False, "not mounted, or not visible") == (finding.ok, finding.detail)


def test_a_container_of_its_own_processes_is_told_how_to_see_the_host(tmp_path: Path):
    namespace = tmp_path / "proc/self/ns/pid"
    namespace.parent.mkdir(parents=True)
    namespace.symlink_to("pid:[4026532999]")
    inside = only(preflight.container(Host(tmp_path)), "processes")
    assert (False, False) == (inside.ok, inside.required)
    assert "hostPID" in inside.remedy

    namespace.unlink()
    namespace.symlink_to("pid:[4026531836]")
    assert only(preflight.container(Host(tmp_path)), "processes").ok


def test_a_missing_bcc_is_reported_not_raised(tmp_path: Path):
    finding = only(preflight.bcc(Host(bcc_python=str(tmp_path / "python3"))), "bcc")

    assert not finding.ok
    assert "python3-bpfcc" in finding.remedy


def test_an_unusable_cache_is_reported(tmp_path: Path):
    tmp_path.chmod(0o755)

    finding = only(preflight.bytecode_cache(Host(cache_dir=tmp_path)), "bytecode cache")

    assert (False, False) == (finding.ok, finding.required)
    assert "open to others" in finding.detail


def test_rights_are_read_as_the_kernel_numbers_them(tmp_path: Path):
    """include/uapi/linux/capability.h: CAP_SYS_ADMIN is 21, CAP_BPF 39."""
    write(tmp_path / "status", f"Name:\tx\nCapEff:\t{1 << 21 | 1 << 39:016x}\n")

    assert {"CAP_SYS_ADMIN", "CAP_BPF"} == capabilities.effective_capabilities(tmp_path / "status")


def test_sys_admin_stands_for_the_rights_that_were_once_part_of_it():
    """Before 5.8 there was neither CAP_BPF nor CAP_PERFMON."""
    lacking = capabilities.lacking_rights(frozenset({"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SETUID", "CAP_SETGID"}))

    assert (
        "no CAP_DAC_READ_SEARCH to read other users' files under /proc",
        "Run as root; in a container, add CAP_DAC_READ_SEARCH.",
    ) == lacking


def test_without_any_right_everything_needed_is_named():
    lacking = capabilities.lacking_rights(frozenset())

    assert lacking is not None
    for name in ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID"):
        assert all(name in text for text in lacking)


def links(
    monkeypatch: pytest.MonkeyPatch, form: UprobeForm | None, machine: str = "x86_64", **settings: str
) -> dict[str, tuple[bool, str]]:
    """On a host with this form of uprobes."""
    uname = os.uname()
    monkeypatch.setattr(preflight, "available_forms", lambda: iter([form] if form else []))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*uname[:4], machine)))
    findings = preflight.uprobes(Host(**settings))
    assert [] == [finding for finding in findings if finding.required or not (finding.ok or finding.remedy)]
    prefix = "links in "
    return {
        finding.name.removeprefix(prefix): (finding.ok, finding.detail)
        for finding in findings
        if finding.name.startswith(prefix)
    }


def test_whose_calls_have_a_parent_here_is_told_for_each_runtime(monkeypatch: pytest.MonkeyPatch):
    found = links(monkeypatch, UprobeForm.MULTI)

    assert ["Python", "nginx", "Go", "Node"] == list(found)
    assert all(is_ok for is_ok, _ in found.values())
    assert "unless OTEL_EBPF_NODE_PARENTS=promises" in found["Node"][1]
    assert "also behind an await" in links(monkeypatch, UprobeForm.MULTI, node_parents="promises")["Node"][1]


def test_without_uprobes_nginx_alone_has_and_on_another_machine_none(monkeypatch: pytest.MonkeyPatch):
    without = links(monkeypatch, None), links(monkeypatch, UprobeForm.MULTI, machine="aarch64")

    assert [dict.fromkeys(LINKED, False) | {"nginx": True}, dict.fromkeys(LINKED, False)] == [
        {name: is_ok for name, (is_ok, _) in found.items()} for found in without
    ]
    assert "aarch64" in without[1]["Go"][1]


def test_what_is_switched_off_is_no_lack(monkeypatch: pytest.MonkeyPatch):
    off = dict.fromkeys(LINKED, (True, "switched off by OTEL_EBPF_PARENTS"))

    assert off == links(monkeypatch, UprobeForm.MULTI, parents="off")
    node_alone = links(monkeypatch, UprobeForm.MULTI, node_parents="off")
    assert (True, "switched off by OTEL_EBPF_NODE_PARENTS") == node_alone["Node"]
    assert LINKED["Go"] == node_alone["Go"][1]


def test_the_versions_that_are_told_are_those_in_the_tables():
    python, go = sorted(python_watch._LAYOUTS), sorted(go_program._LAYOUTS)

    assert f"CPython 3.{python[0]} to 3.{python[-1]} " in LINKED["Python"]
    assert f"Go {go[0][0]}.{go[0][1]} to {go[-1][0]}.{go[-1][1]}" in LINKED["Go"]
