"""Reading /proc: made-up trees for what cannot be had on demand, real processes for what the kernel really says."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from otel_ebpf.probe.procfs import ListeningPorts, Procfs, Snapshot
from tests.unit.probe.fake_proc import FakeProc, FakeProcess, tcp_table

GONE = 4_194_305  # above the kernel's greatest process number
ID = "0123456789abcdef" * 4


def inode_of(end: socket.socket) -> int:
    return os.stat(end.fileno()).st_ino


def the_only_process(tmp_path: Path, **facts: object) -> Procfs:
    FakeProc(tmp_path).add(FakeProcess(pid=10, **facts))  # type: ignore[arg-type]
    return Procfs(str(tmp_path))


@pytest.mark.parametrize("command", ["a b", "a) S 1", "(sd-pam)", "", "))(("])
def test_a_command_with_blanks_and_parentheses_does_not_shift_the_fields(tmp_path: Path, command: str) -> None:
    """Proc(5): the name stands in parentheses and is not escaped, so the last one closes it."""
    stat = the_only_process(tmp_path, command=command, parent_pid=7, start_ticks=99).stat(10)

    assert stat is not None
    assert (command.encode(), 7, 99) == (stat.command, stat.parent_pid, stat.start_ticks)


def test_a_process_that_is_gone_gives_none_everywhere() -> None:
    procfs = Procfs()
    facts = [
        procfs.stat(GONE),
        procfs.arguments(GONE, 100),
        procfs.variables(GONE, ["HOME"], 100),
        procfs.executable(GONE),
        procfs.working_directory(GONE),
        procfs.container_id(GONE),
        procfs.user_id(GONE),
        procfs.network_namespace(GONE),
        procfs.listening_ports(GONE),
        procfs.socket_inodes(GONE),
    ]

    assert [None] * len(facts) == facts
    assert () == procfs.namespaced_pids(GONE)
    assert {} == ListeningPorts(procfs).held_by(GONE)


def test_a_zombie_has_a_stat_and_nothing_else_and_counts_as_gone() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    procfs = Procfs()
    try:
        assert procfs.stat(child) is not None
        assert procfs.executable(child) is None
        assert Snapshot(procfs, ListeningPorts(procfs)).stat(child) is None
    finally:
        os.waitpid(child, 0)


def test_a_truncated_stat_is_no_stat(tmp_path: Path) -> None:
    procfs = the_only_process(tmp_path)
    (tmp_path / "10/stat").write_text("10 (x) S 1")

    assert procfs.stat(10) is None


def test_the_title_of_a_process_loses_its_padding(tmp_path: Path) -> None:
    """Nginx and others overwrite argv and leave zeros behind."""
    procfs = the_only_process(tmp_path, argv=("nginx: master process nginx", "", ""))

    assert (b"nginx: master process nginx",) == procfs.arguments(10, 4096)


def test_only_the_named_variables_are_kept_and_the_first_of_a_name_wins(tmp_path: Path) -> None:
    procfs = the_only_process(tmp_path, environ=("SECRET=1", "OTEL_SERVICE_NAME=a=b", "OTEL_SERVICE_NAME=c"))

    assert {"OTEL_SERVICE_NAME": b"a=b"} == procfs.variables(10, ["OTEL_SERVICE_NAME"], 4096)


def test_a_variable_that_the_bound_cuts_is_left_out(tmp_path: Path) -> None:
    """Half a value would be a wrong one."""
    procfs = the_only_process(tmp_path, environ=("A=1", "OTEL_SERVICE_NAME=shop"))

    assert {} == procfs.variables(10, ["OTEL_SERVICE_NAME"], 15)


def test_a_replaced_executable_keeps_its_path(tmp_path: Path) -> None:
    assert b"/srv/app" == the_only_process(tmp_path, executable="/srv/app (deleted)").executable(10)


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (f"12:cpu:/docker/{ID}\n0::/docker/{ID}\n", ID),
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", ID),
        (f"0::/kubepods/besteffort/pod123/{ID}\n", ID),
        (f"0::/kubepods.slice/crio-{ID}.scope\n", ID),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID),
        (f"0::/machine.slice/libpod-conmon-{ID}.scope\n", ""),
        (f"0::/docker/{'f' * 64}/docker/{ID}\n", ID),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        (f"0::/system.slice/{ID[:40]}.service\n", ""),
    ],
)
def test_the_innermost_container_is_named_by_its_cgroup(tmp_path: Path, cgroup: str, expected: str) -> None:
    assert expected == the_only_process(tmp_path, cgroup=cgroup).container_id(10)


def test_the_effective_user_and_the_numbers_in_all_namespaces_are_read(tmp_path: Path) -> None:
    procfs = the_only_process(tmp_path)

    assert 33 == procfs.user_id(10)
    assert (123, 7) == procfs.namespaced_pids(10)


def test_reading_ends_where_connections_begin(tmp_path: Path) -> None:
    """The kernel lists listening sockets first; a host with 100,000 connections must not cost more."""
    procfs = the_only_process(tmp_path)
    table = tcp_table([(1, 80), (2, 443)], [(number, 80) for number in range(100, 50_000)])
    (tmp_path / "10/net/tcp").write_text(table + "  99: 0100007F:1F90 0:0 0A 0 0 0 0 0 777 1\n")
    (tmp_path / "10/net/tcp6").write_text(tcp_table([(3, 8080)]))

    assert {1: 80, 2: 443, 3: 8080} == procfs.listening_ports(10)


def test_a_very_long_list_of_listening_sockets_is_read_whole(tmp_path: Path) -> None:
    procfs = the_only_process(tmp_path)
    (tmp_path / "10/net/tcp").write_text(tcp_table([(number, number) for number in range(1, 5000)], [(9999, 1)]))

    assert {number: number for number in range(1, 5000)} == procfs.listening_ports(10)


def test_listening_sockets_of_a_real_process_are_found_among_its_connections() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_connection(four.getsockname()) as client,
        four.accept()[0] as accepted,
    ):
        held = ListeningPorts(Procfs()).held_by(os.getpid())

        assert four.getsockname()[1] == held[inode_of(four)]
        assert six.getsockname()[1] == held[inode_of(six)]
        assert inode_of(client) not in held
        assert inode_of(accepted) not in held


def test_known_ports_are_kept_until_someone_listens() -> None:
    listening = ListeningPorts(Procfs())
    with socket.create_server(("127.0.0.1", 0)) as early:
        assert inode_of(early) in listening.held_by(os.getpid())
        with socket.create_server(("127.0.0.1", 0)) as late:
            assert inode_of(late) not in listening.held_by(os.getpid())
            listening.forget()

            assert late.getsockname()[1] == listening.held_by(os.getpid())[inode_of(late)]


def test_facts_of_a_real_process_are_those_that_it_was_started_with(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"]
    environ = {"OTEL_SERVICE_NAME": "shop", "OTHER": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environ, cwd=tmp_path, **pipes) as child:  # type: ignore[call-overload]
        assert b"x" == child.stdout.read(1)
        procfs = Procfs()
        stat = procfs.stat(child.pid)

        assert stat is not None
        assert os.getpid() == stat.parent_pid
        assert tuple(word.encode() for word in command) == procfs.arguments(child.pid, 4096)
        assert {"OTEL_SERVICE_NAME": b"shop"} == procfs.variables(child.pid, ["OTEL_SERVICE_NAME"], 1 << 20)
        assert os.fsencode(os.path.realpath(sys.executable)) == procfs.executable(child.pid)
        assert os.fsencode(tmp_path) == procfs.working_directory(child.pid)
        assert os.geteuid() == procfs.user_id(child.pid)
        assert procfs.has_root_of(child.pid)
        assert procfs.network_namespace(os.getpid()) == procfs.network_namespace(child.pid)
        child.stdin.close()


def real_snapshot() -> Snapshot:
    return Snapshot(Procfs(), ListeningPorts(Procfs()))


def test_a_copy_by_fork_is_a_worker_and_a_new_program_of_the_same_interpreter_is_not() -> None:
    """The stack's address is random for each exec and kept by fork; both are told apart by it."""
    reader, writer = os.pipe()
    copy = os.fork()
    if copy == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    command = [os.path.realpath(sys.executable), "-c", "input('ready\\n')"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert b"ready\n" == other.stdout.readline()
        is_worker = [real_snapshot().is_worker(pid, os.getpid()) for pid in (copy, other.pid)]
        other.stdin.write(b"\n")
    os.close(writer)
    os.waitpid(copy, 0)

    assert [True, False] == is_worker


def test_a_worker_is_known_by_its_command_or_by_how_its_runtime_marks_it(tmp_path: Path) -> None:
    """The same command; CPython's multiprocessing; Node's cluster, whose workers run another command line."""
    proc = FakeProc(tmp_path)
    proc.add(FakeProcess(10, argv=("python3", "app.py"), start_stack=500))
    proc.add(FakeProcess(11, 10, argv=("python3", "app.py"), start_stack=600))
    proc.add(FakeProcess(12, 10, argv=("python3", "-c", "from m import s", "--multiprocessing-fork"), start_stack=700))
    proc.add(FakeProcess(13, 10, argv=("node", "/srv/app.js"), environ=("NODE_UNIQUE_ID=1",), start_stack=800))
    proc.add(FakeProcess(14, 10, argv=("python3", "job.py"), start_stack=900))
    proc.add(FakeProcess(15, 10, executable="/usr/bin/curl", argv=("python3", "app.py"), start_stack=500))
    snapshot = Snapshot(Procfs(str(tmp_path)), ListeningPorts(Procfs(str(tmp_path))))

    assert [True, True, True, False, False] == [snapshot.is_worker(pid, 10) for pid in range(11, 16)]


def test_descendants_are_all_below_and_ancestors_all_above(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (6, 1)):
        proc.add(FakeProcess(pid, parent))
    snapshot = Snapshot(Procfs(str(tmp_path)), ListeningPorts(Procfs(str(tmp_path))))

    assert {3, 4, 5} == set(snapshot.descendants(2))
    assert [4, 2, 1] == snapshot.ancestors(5)


def test_parents_that_go_round_in_a_circle_end_the_walk(tmp_path: Path) -> None:
    """Numbers are given again while we read, so what we see need not be a tree."""
    proc = FakeProc(tmp_path)
    proc.add(FakeProcess(2, 3))
    proc.add(FakeProcess(3, 2))
    snapshot = Snapshot(Procfs(str(tmp_path)), ListeningPorts(Procfs(str(tmp_path))))

    assert 100 == len(snapshot.ancestors(2))
    assert {2, 3} == set(snapshot.descendants(2))
