"""Rights are really gone: each test runs as root in a child of its own and asks the kernel."""

import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_ebpf.errors import AgentError
from otel_ebpf.probe import capabilities, privileges

pytestmark = pytest.mark.kernel  # needs root

NOBODY = 65534
NONE = "0" * 16


def in_child(action: Callable[[], Any]) -> Any:
    """What the action returns in a process of its own; what it raises fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            os.write(writer, json.dumps(action()).encode())
            status = 0
        except BaseException:  # noqa: BLE001  the child must never return into pytest
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "see the traceback in stderr"
    return json.loads(answer)


def status_of(pid: str | int = "self") -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


def refused(action: Callable[[], object]) -> str:
    """The name of the error that the action ends with."""
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "allowed"


def test_the_exporter_ends_up_without_any_right() -> None:
    def drop() -> dict[str, str]:
        os.setgroups([0, 4, 27])
        privileges.drop_to_user("nobody")
        return status_of()

    status = in_child(drop)

    assert [str(NOBODY)] * 4 == status["Uid"].split()
    assert [str(NOBODY)] * 4 == status["Gid"].split()
    assert status["Groups"] == ""
    assert [NONE] * 5 == [status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    assert status["NoNewPrivs"] == "1"


def test_the_exporter_cannot_take_rights_back_nor_read_what_is_roots(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)

    def drop() -> list[str]:
        privileges.drop_to_user("nobody")
        return [
            refused(lambda: os.setuid(0)),
            refused(lambda: os.setgid(0)),
            refused(lambda: os.setgroups([0])),
            refused(lambda: secret.read_text()),
            refused(lambda: os.listdir("/proc/1/fd")),
            refused(lambda: os.kill(1, 0)),
        ]

    assert ["PermissionError"] * 6 == in_child(drop)


def test_another_process_of_the_same_user_cannot_look_into_the_exporter() -> None:
    """Many daemons run as nobody; the exporter's environment may hold a token."""

    def drop() -> str:
        privileges.drop_to_user("nobody")
        exporter = os.getpid()

        def look() -> str:
            return refused(lambda: Path(f"/proc/{exporter}/environ").read_bytes())

        return str(in_child(look))

    assert in_child(drop) == "PermissionError"


def test_a_user_may_be_given_by_number() -> None:
    def drop() -> list[str]:
        privileges.drop_to_user("54321")
        return [status_of()["Uid"], status_of()["Gid"]]

    assert [" ".join(["54321"] * 4)] * 2 == in_child(drop)


@pytest.mark.parametrize("user", ["root", "0", "no-such-user"])
def test_a_user_that_would_keep_rights_is_refused(user: str) -> None:
    def drop() -> str:
        with pytest.raises(AgentError) as caught:
            privileges.drop_to_user(user)
        return caught.value.what

    assert user in in_child(drop)


def test_dropping_without_the_right_to_is_an_error() -> None:
    def drop() -> str:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(AgentError) as caught:
            privileges.drop_to_user("nobody")
        return caught.value.remedy

    assert in_child(drop) == "Start the agent as root."


def test_dropping_works_where_the_bounding_set_cannot_be_changed() -> None:
    """A container may have no CAP_SETPCAP; no_new_privs makes the bounding set powerless."""

    def drop() -> dict[str, str]:
        privileges.limit_capabilities(["CAP_SETUID", "CAP_SETGID"])
        privileges.drop_to_user("nobody")
        return status_of()

    status = in_child(drop)

    assert [NONE] * 4 == [status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Amb")]
    assert status["NoNewPrivs"] == "1"


def test_a_thread_that_is_about_to_leave_is_waited_for() -> None:
    """One that was joined is counted by the kernel for a moment longer."""

    def limit() -> str:
        threading.Timer(0.05, lambda: None).start()
        privileges.limit_capabilities([])
        return status_of()["Threads"]

    assert in_child(limit) == "1"


def test_nothing_is_dropped_while_another_thread_would_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "_THREAD_LEAVES_S", 0.01)

    def drop() -> list[str]:
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        messages = []
        for action in (lambda: privileges.drop_to_user("nobody"), lambda: privileges.limit_capabilities([])):
            with pytest.raises(AgentError) as caught:
                action()
            messages.append(caught.value.what)
        done.set()
        thread.join()
        return messages

    assert all("2 threads" in message for message in in_child(drop))


def test_the_probe_keeps_what_it_is_allowed_and_nothing_else() -> None:
    def limit() -> dict[str, str]:
        privileges.limit_capabilities(["CAP_SYS_PTRACE", "CAP_BPF"])
        return status_of()

    status = in_child(limit)
    mask = f"{1 << 19 | 1 << 39:016x}"

    assert [mask] * 3 == [status[f"Cap{name}"] for name in ("Prm", "Eff", "Bnd")]
    assert [NONE] * 2 == [status[f"Cap{name}"] for name in ("Inh", "Amb")]
    assert ["0"] * 4 == status["Uid"].split()


def test_a_limited_probe_is_refused_what_it_gave_up_also_after_exec(tmp_path: Path) -> None:
    """Root that executes a program gets what the bounding set leaves: nothing more than before."""
    own = tmp_path / "own"
    own.touch()

    def limit() -> list[str]:
        privileges.limit_capabilities(["CAP_SYS_PTRACE"])
        return [
            refused(lambda: os.chown(own, NOBODY, NOBODY)),
            refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
            refused(lambda: os.setuid(NOBODY)),
            os.popen("grep CapEff /proc/self/status").read().split()[1],
        ]

    assert [*["PermissionError"] * 3, f"{1 << 19:016x}"] == in_child(limit)


def test_a_capability_that_was_missing_from_the_start_is_told_and_no_error() -> None:
    def limit() -> list[list[str]]:
        first = privileges.limit_capabilities(["CAP_BPF", "CAP_SETPCAP"])
        second = privileges.limit_capabilities(["CAP_BPF", "CAP_SYS_ADMIN"])
        return [sorted(first), sorted(second), sorted(capabilities.effective_capabilities())]

    assert [[], ["CAP_SYS_ADMIN"], ["CAP_BPF"]] == in_child(limit)


def test_an_unknown_capability_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="CAP_FLY"):
        privileges.limit_capabilities(["CAP_FLY"])


def test_the_table_of_capabilities_is_the_kernels() -> None:
    """include/uapi/linux/capability.h; the kernel knows at least as many as the table."""
    numbers = capabilities.CAPABILITY_NUMBERS

    assert (0, 21, 24, 38, 40) == tuple(
        numbers[f"CAP_{name}"] for name in ("CHOWN", "SYS_ADMIN", "SYS_RESOURCE", "PERFMON", "CHECKPOINT_RESTORE")
    )
    assert max(numbers.values()) <= int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert capabilities.capability_names(1 << 63 | 1) == {"CAP_CHOWN", "CAP_63"}


def test_a_process_is_named_for_ps() -> None:
    def rename() -> str:
        privileges.set_process_name("otel-ebpf-exporter-and-more")
        return Path("/proc/self/comm").read_text()

    assert in_child(rename) == "otel-ebpf-expor\n"
