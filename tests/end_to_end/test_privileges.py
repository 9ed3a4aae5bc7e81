"""Which rights each process of the running agent has, as /proc/PID/status tells it."""

import os
import pwd

import pytest

from otel_ebpf.supervisor import KEEPS_ADMIN
from tests.end_to_end.stage import Stage
from tests.services.processes import status_field

# include/uapi/linux/capability.h
CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 2, 19, 21, 38, 39
MOST_OF_PROBE = {CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF}
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def capabilities(pid: int, which: str) -> set[int]:
    mask = int(status_field(pid, which), 16)
    return {number for number in range(64) if mask >> number & 1}


def test_exporter_is_nobody_with_no_rights(stage: Stage) -> None:
    """All foreign bytes are parsed there: no user, group, capability or way to gain any."""
    server = stage.server("go")
    pid = stage.agent(OTEL_EBPF_OPEN_PORT=server.port).exporter_pid

    nobody = pwd.getpwnam("nobody")
    assert [str(nobody.pw_uid)] * 4 == status_field(pid, "Uid").split()
    assert [str(nobody.pw_gid)] * 4 == status_field(pid, "Gid").split()
    assert set(status_field(pid, "Groups").split()) <= {str(nobody.pw_gid)}
    assert {} == {which: found for which in CAPABILITY_SETS if (found := capabilities(pid, which))}
    assert "1" == status_field(pid, "NoNewPrivs")


@pytest.mark.parametrize("which", ["CapPrm", "CapEff", "CapBnd"])
def test_probe_keeps_only_what_attaching_needs(which: str, stage: Stage) -> None:
    """Where the kernel asks for one more later on, the agent says so."""
    server = stage.server("go")
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    allowed = MOST_OF_PROBE | ({CAP_SYS_ADMIN} if KEEPS_ADMIN in agent.messages else set())
    assert capabilities(agent.probe_pid, which)
    assert capabilities(agent.probe_pid, which) <= allowed


def test_agent_opens_no_port(stage: Stage) -> None:
    """Neither process listens: there is nothing to reach from outside."""
    server = stage.server("go")
    agent = stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    assert set() == listening_inodes() & (socket_inodes(agent.probe_pid) | socket_inodes(agent.exporter_pid))


def listening_inodes() -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as lines:
            next(lines)
            fields = [line.split() for line in lines]
        found |= {field[9] for field in fields if field[3] == "0A"}  # TCP_LISTEN
    return found


def socket_inodes(pid: int) -> set[str]:
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            where = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if where.startswith("socket:["):
            found.add(where[8:-1])
    return found
