import errno
import os
from pathlib import Path

import pytest

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import kprobes
from otel_ebpf.probe.kprobes import (
    KPROBES,
    NO_SUCH_FUNCTION,
    WAIT_KPROBES,
    Kprobe,
    KprobeEvents,
    addresses_of,
    make_events,
    remove_abandoned_events,
    why_refused,
)

SYMBOLS = """\
ffffffff81000000 T tcp_sendmsg
ffffffff81000010 t tcp_sendmsg_locked
ffffffff82000000 D vmemmap_base
ffffffffc0000000 t tls_sw_sendmsg\t[tls]
ffffffffc0000010 t late\t[tls]
"""


@pytest.fixture
def tracing(tmp_path: Path) -> Path:
    """A folder like tracefs, in which what is written to the list of events stays as it was written."""
    (tmp_path / "kprobe_events").touch()
    return tmp_path


def lines_of(tracing: Path) -> list[str]:
    return (tracing / "kprobe_events").read_text().splitlines()


def test_addresses_are_those_of_the_kernel_itself(tmp_path: Path):
    """Modules stand behind it: who waits for one more name does not read on."""
    path = tmp_path / "kallsyms"
    path.write_text(SYMBOLS)

    found = addresses_of({"vmemmap_base", "tcp_sendmsg", "tls_sw_sendmsg", "sendmsg"}, path)

    assert {"tcp_sendmsg": 0xFFFFFFFF81000000, "vmemmap_base": 0xFFFFFFFF82000000} == found


def test_without_a_list_of_symbols_nothing_is_known(tmp_path: Path):
    assert {} == addresses_of({"tcp_sendmsg"}, tmp_path / "missing")


def test_the_event_of_a_return_comes_before_that_of_the_entry(tracing: Path):
    """Of a call whose entry is seen the return is seen. And it is asked for room for many calls at a time."""
    events = KprobeEvents(tracing, {})

    events.make(Kprobe("tcp_sendmsg", "on_tcp_send", "on_moved"))
    events.make(Kprobe("tcp_close", "on_tcp_close"))

    names = [line.split(":")[0] + " " + line.split("/")[1] for line in lines_of(tracing)]
    assert ["r4096 tcp_sendmsg_returns tcp_sendmsg", "p tcp_sendmsg tcp_sendmsg", "p tcp_close tcp_close"] == names


def test_closing_removes_each_event_again(tracing: Path):
    events = KprobeEvents(tracing, {})
    events.make(Kprobe("tcp_sendmsg", "on_tcp_send", "on_moved"))
    made = [line.split()[0].partition(":")[2] for line in lines_of(tracing)]

    events.close()

    assert [f"-:{name}" for name in reversed(made)] == lines_of(tracing)[len(made) :]


@pytest.mark.parametrize("row", [*KPROBES, *WAIT_KPROBES], ids=lambda row: row.function)
def test_a_function_that_cannot_be_probed_is_named_with_the_reason_and_the_remedy(row: Kprobe, tmp_path: Path):
    """Unless it is one that only some kernels have."""
    events = KprobeEvents(tmp_path, {})  # no list of events: every write fails
    if not row.is_needed:
        events.make(row)
        return
    with pytest.raises(ProbeError, match=f"no kprobe on {row.function}: {NO_SUCH_FUNCTION}") as refusal:
        events.make(row)

    assert "OTEL_EBPF_SOCKET_BACKEND=tracepoint" in refusal.value.remedy


def test_a_function_that_is_there_and_refused_is_an_error_even_where_it_need_not_be_there(tmp_path: Path):
    events = KprobeEvents(tmp_path, {"tcp_sendpage": 1})

    with pytest.raises(ProbeError, match="tcp_sendpage"):
        events.make(Kprobe("tcp_sendpage", "on_tcp_send_page", "on_moved", is_needed=False))


def test_a_function_that_must_not_be_probed_is_told_from_one_that_is_not_there(tmp_path: Path):
    blacklist = tmp_path / "blacklist"
    blacklist.write_text("0xffffffff81000000-0xffffffff81000040\ttcp_sendmsg\n0x0-0x1\tother\n")
    error = OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    assert NO_SUCH_FUNCTION == why_refused("gone", error, {"tcp_sendmsg"}, blacklist)
    assert f"it is in {blacklist}" == why_refused("tcp_sendmsg", error, {"tcp_sendmsg"}, blacklist)
    assert os.strerror(errno.EINVAL) == why_refused("tcp_close", error, {"tcp_close"}, blacklist)


def test_what_a_killed_agent_has_left_is_removed_and_nothing_else(tracing: Path):
    """Another agent's, and those of other programs, stay."""
    dead = 2**22 + 1  # above what pid_max can be
    KprobeEvents(tracing, {}).make(Kprobe("tcp_connect", "on_tcp_connect"))
    mine = lines_of(tracing)
    kept = [
        f"p:otel_ebpf_{os.getppid()}_1/tcp_close tcp_close",
        "p:kprobes/other tcp_close",
        "r:otel_ebpf_x/y tcp_close",
    ]
    left = [f"r4096:otel_ebpf_{dead}_1/tcp_sendmsg_returns tcp_sendmsg", f"p:otel_ebpf_{dead}_2/tcp_close tcp_close"]
    before = [
        f"p:otel_ebpf_{os.getpid()}_1/tcp_close tcp_close"
    ]  # a container's first process has the same number again
    (tracing / "kprobe_events").write_text("\n".join(mine + kept + left + before) + "\n")

    remove_abandoned_events(tracing)

    removed = [
        f"otel_ebpf_{dead}_1/tcp_sendmsg_returns",
        f"otel_ebpf_{dead}_2/tcp_close",
        f"otel_ebpf_{os.getpid()}_1/tcp_close",
    ]
    assert mine + kept + left + before + [f"-:{name}" for name in removed] == lines_of(tracing)


def test_where_no_perf_event_may_be_opened_no_kprobe_is_made(tracing: Path, monkeypatch: pytest.MonkeyPatch):
    """CAP_PERFMON is not enough on Debian's kernels: said at the start, not when a first service is to be watched."""

    def refuse() -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(kprobes, "tracing_folder", lambda: tracing)
    monkeypatch.setattr(kprobes, "try_perf_event", refuse)

    with pytest.raises(ProbeError, match="perf_event_paranoid") as refusal:
        make_events()

    assert "CAP_SYS_ADMIN" in refusal.value.remedy
    assert [] == lines_of(tracing)
