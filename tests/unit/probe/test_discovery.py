"""Which processes are watched, which service each belongs to, and how events change that."""

import subprocess
import sys
from pathlib import Path

import pytest

from otel_ebpf.probe.discovery import Add, Change, Discovery, Gone, Identity, Leave, Remove
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.selection import Selection
from otel_ebpf.records.kinds import ProcessEvent, ProcessEventKind
from tests.unit.probe.fake_proc import FakeProc, FakeProcess

AGENT = 900
NGINX = "/usr/sbin/nginx"
CURL = "/usr/bin/curl"
BASH = "/usr/bin/bash"


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    proc = FakeProc(tmp_path)
    proc.add(FakeProcess(1, 0, executable="/usr/lib/systemd/systemd"))
    proc.add(FakeProcess(AGENT, 1, executable="/usr/bin/python3.11", argv=("otel-ebpf", "run")))
    return proc


def discovery(proc: FakeProc, selection: Selection | None = None) -> Discovery:
    return Discovery(selection or Selection(), [AGENT], Procfs(str(proc.root)))


def services(found: Discovery) -> dict[int, int]:
    return {pid: target.service_pid for pid, target in found.targets.items()}


def exec_event(pid: int, is_target: int = 0) -> ProcessEvent:
    return ProcessEvent(ProcessEventKind.EXEC, pid, 0, 0, is_target, b"")


def fork_event(parent_pid: int, pid: int) -> ProcessEvent:
    return ProcessEvent(ProcessEventKind.FORK, pid, parent_pid, 0, 1, b"")


def exit_event(pid: int) -> ProcessEvent:
    return ProcessEvent(ProcessEventKind.EXIT, pid, 0, 0, 1, b"")


def listen_event(pid: int, port: int, is_target: int = 0) -> ProcessEvent:
    return ProcessEvent(ProcessEventKind.LISTEN, pid, 0, port, is_target, b"")


def nginx(proc: FakeProc, workers: int = 2) -> None:
    """Master 10, workers from 11 on, all holding socket 500 on port 80."""
    proc.add(FakeProcess(10, 1, NGINX, ("nginx: master process",), sockets=(500,), start_ticks=100, start_stack=77))
    for pid in range(11, 11 + workers):
        proc.add(FakeProcess(pid, 10, NGINX, ("nginx: worker process",), sockets=(500,), start_stack=77))
    proc.listen(500, 80)


# --- The scan at start ---


def test_workers_that_share_the_listening_socket_belong_to_the_topmost_holder(proc: FakeProc) -> None:
    nginx(proc)
    found = discovery(proc)
    found.scan()

    assert {10: 10, 11: 10, 12: 10} == services(found)
    assert found.targets[10].why == "listens on port 80"


def test_a_chain_of_shared_sockets_leads_to_its_top(proc: FakeProc) -> None:
    """12 shares a socket with 11 alone, and 11 another one with 10: one service."""
    for pid, parent, sockets in ((10, 1, (500,)), (11, 10, (500, 501)), (12, 11, (501,))):
        proc.add(FakeProcess(pid, parent, f"/srv/{pid}", sockets=sockets))
    proc.listen(500, 80)
    proc.listen(501, 81)
    found = discovery(proc)
    found.scan()

    assert {10: 10, 11: 10, 12: 10} == services(found)


def test_two_services_of_one_interpreter_stay_apart(proc: FakeProc) -> None:
    """A supervisor and what it starts run the same python3, and may both listen."""
    proc.add(FakeProcess(20, 1, argv=("supervisord",), sockets=(600,), start_stack=1000))
    proc.add(FakeProcess(21, 20, argv=("gunicorn", "shop:app"), sockets=(601,), start_stack=2000))
    proc.add(FakeProcess(22, 20, argv=("celery", "worker"), start_stack=3000))
    proc.listen(600, 9001)
    proc.listen(601, 8000)
    found = discovery(proc)
    found.scan()

    assert {20: 20, 21: 21} == services(found)


def test_workers_without_a_socket_belong_to_the_program_that_hands_them_connections(proc: FakeProc) -> None:
    """Node's cluster: the primary alone listens; its workers get accepted connections."""
    node = "/usr/bin/node"
    proc.add(FakeProcess(30, 1, node, ("node", "app.js"), sockets=(700,), start_stack=1000))
    marks = ("NODE_UNIQUE_ID=1",)
    proc.add(FakeProcess(31, 30, node, ("/usr/bin/node", "/srv/app.js"), marks, start_stack=2000))
    proc.add(FakeProcess(32, 30, CURL, ("curl", "http://x"), start_stack=3000))
    proc.listen(700, 3000)
    found = discovery(proc)
    found.scan()

    assert {30: 30, 31: 30} == services(found)
    assert found.targets[31].why == "worker of 30"


def test_a_worker_with_a_socket_of_its_own_still_belongs_to_its_service(proc: FakeProc) -> None:
    """SO_REUSEPORT, or a private port for metrics."""
    proc.add(FakeProcess(40, 1, argv=("gunicorn",), sockets=(800,), start_stack=1000))
    proc.add(FakeProcess(41, 40, argv=("gunicorn",), sockets=(801,), start_stack=1000))
    proc.listen(800, 80)
    proc.listen(801, 80)
    found = discovery(proc)
    found.scan()

    assert {40: 40, 41: 40} == services(found)


def test_systemd_holds_sockets_for_others_and_leads_nothing(proc: FakeProc) -> None:
    proc.add(FakeProcess(1, 0, "/usr/lib/systemd/systemd", sockets=(900,)))
    proc.add(FakeProcess(50, 1, "/usr/sbin/sshd", sockets=(900,)))
    proc.listen(900, 22)
    found = discovery(proc)
    found.scan()

    assert {50: 50} == services(found)


def test_the_agent_and_what_it_starts_are_never_watched(proc: FakeProc) -> None:
    proc.add(FakeProcess(AGENT, 1, sockets=(910,)))
    proc.add(FakeProcess(901, AGENT, sockets=(910,)))
    proc.add(FakeProcess(902, 901, sockets=(911,)))
    proc.listen(910, 9090)
    proc.listen(911, 9091)
    everything = Selection(exe_globs=("*",), pids=frozenset({901}), open_ports=((1, 65535),))
    found = discovery(proc, everything)
    found.scan()

    assert {AGENT, 901, 902}.isdisjoint(services(found))


def test_a_socket_of_another_network_namespace_is_told_by_that_namespace(proc: FakeProc) -> None:
    proc.add(FakeProcess(60, 1, NGINX, sockets=(920,), network=4026532000))
    proc.listen(920, 80, network=4026532000)
    proc.add(FakeProcess(61, 1, NGINX, sockets=(921,)))
    found = discovery(proc)
    found.scan()

    assert {60: 60} == services(found)


def test_a_process_selected_by_its_program_needs_no_socket(proc: FakeProc) -> None:
    """The topmost ancestor that runs the same leads; a client that never listens is a service as well."""
    proc.add(FakeProcess(70, 1, "/opt/job", ("job",), start_stack=1))
    proc.add(FakeProcess(71, 70, "/opt/job", ("job",), start_stack=2))
    proc.add(FakeProcess(72, 71, "/opt/job", ("job",), start_stack=3))
    found = discovery(proc, Selection(exe_globs=("*/job",)))
    found.scan()

    assert {70: 70, 71: 70, 72: 70} == services(found)


def test_a_selected_process_under_an_unselected_holder_of_its_socket_leads_itself(proc: FakeProc) -> None:
    proc.add(FakeProcess(80, 1, "/opt/launcher", sockets=(930,)))
    proc.add(FakeProcess(81, 80, "/opt/app", sockets=(930,)))
    proc.listen(930, 80)
    found = discovery(proc, Selection(exe_globs=("*/app",)))
    found.scan()

    assert {81: 81} == services(found)


def test_a_process_named_by_its_number_is_watched_with_its_copies(proc: FakeProc) -> None:
    proc.add(FakeProcess(90, 1, CURL, start_stack=5000))
    proc.add(FakeProcess(91, 90, CURL, start_stack=5000))
    proc.add(FakeProcess(92, 90, BASH, start_stack=6000))
    found = discovery(proc, Selection(pids=frozenset({90})))
    found.scan()

    assert {90: 90, 91: 90} == services(found)


# --- LISTEN ---


def test_a_process_that_begins_to_listen_becomes_a_service(proc: FakeProc) -> None:
    found = discovery(proc)
    found.scan()
    nginx(proc, workers=0)

    assert [Identity(10), Add(10, 10)] == found.on_event(listen_event(10, 80, is_target=1))


def test_relatives_that_hold_the_socket_come_with_the_process_that_listens(proc: FakeProc) -> None:
    """Uvicorn's parent binds, its workers call listen() on what they inherited."""
    proc.add(FakeProcess(10, 1, argv=("uvicorn",), sockets=(500,), start_stack=1))
    for pid in (11, 12):
        command = ("python3", "-c", "spawn_main()", "--multiprocessing-fork")
        proc.add(FakeProcess(pid, 10, argv=command, sockets=(500,), start_stack=pid))
    proc.add(FakeProcess(13, 10, CURL, start_stack=2))
    found = discovery(proc)
    found.scan()
    proc.listen(500, 8000)
    changes = found.on_event(listen_event(11, 8000, is_target=1))

    assert {10: 10, 11: 10, 12: 10} == services(found)
    assert {Identity(10), Add(10, 10), Add(11, 10), Add(12, 10)} == set(changes)


def test_a_further_port_renews_the_identity_and_adds_nothing(proc: FakeProc) -> None:
    nginx(proc)
    found = discovery(proc)
    found.scan()
    proc.add(FakeProcess(10, 1, NGINX, sockets=(500, 501), start_stack=77))
    proc.listen(501, 443)

    assert [Identity(10)] == found.on_event(listen_event(10, 443, is_target=1))


def test_a_port_that_nobody_asked_for_changes_nothing(proc: FakeProc) -> None:
    found = discovery(proc, Selection(open_ports=((443, 443),)))
    nginx(proc)

    assert [] == found.on_event(listen_event(10, 80))


def test_what_the_kernel_added_against_the_rules_is_taken_out(proc: FakeProc) -> None:
    """The kernel knows ports alone; that systemd serves nothing itself is known here."""
    found = discovery(proc)
    proc.add(FakeProcess(1, 0, "/usr/lib/systemd/systemd", sockets=(900,)))
    proc.listen(900, 22)

    assert [Remove(1)] == found.on_event(listen_event(1, 22, is_target=1))


def test_a_daemon_that_has_ended_when_we_hear_of_it_hands_over_to_its_child(proc: FakeProc) -> None:
    """listen(), fork(), exit(): the first process may be gone before its first event is read."""
    proc.add(FakeProcess(11, 1, NGINX, sockets=(500,)))
    proc.listen(500, 80)
    found = discovery(proc)
    changes = [
        *found.on_event(listen_event(10, 80, is_target=1)),
        *found.on_event(fork_event(10, 11)),
        *found.on_event(exit_event(10)),
    ]

    assert Add(10, 10) not in changes, "the kernel has removed it: nobody would remove it again"
    assert [Identity(11), Add(11, 11), Gone(10)] == changes[-3:]
    assert {11: 11} == services(found)


def test_a_socket_that_is_closed_again_is_believed_from_the_event(proc: FakeProc) -> None:
    proc.add(FakeProcess(10, 1, NGINX))
    found = discovery(proc)

    assert [Identity(10), Add(10, 10)] == found.on_event(listen_event(10, 80))


# --- FORK, EXEC ---


def test_a_child_of_a_target_belongs_to_its_service_from_the_fork_on(proc: FakeProc) -> None:
    nginx(proc)
    found = discovery(proc)
    found.scan()
    proc.add(FakeProcess(15, 11, NGINX, start_stack=77))

    assert [Add(15, 10)] == found.on_event(fork_event(11, 15))
    assert found.targets[15].why == "forked from 11"


def nginx_that_starts_curl(proc: FakeProc) -> Discovery:
    """Process 15, of which the fork is known and the exec not yet."""
    nginx(proc)
    found = discovery(proc)
    found.scan()
    proc.add(FakeProcess(15, 11, CURL, ("curl",), start_stack=1))
    found.on_event(fork_event(11, 15))
    return found


def test_another_program_started_by_a_target_is_not_part_of_its_service(proc: FakeProc) -> None:
    found = nginx_that_starts_curl(proc)

    assert [Leave(15)] == found.on_event(exec_event(15, is_target=1))
    assert 15 not in found.targets


def test_a_program_started_for_a_connection_is_part_of_the_service_that_accepted_it(proc: FakeProc) -> None:
    """As inetd starts one for each."""
    found = nginx_that_starts_curl(proc)

    assert [] == found.on_event(exec_event(15, is_target=1)._replace(port=1))
    assert 10 == services(found)[15]


def test_a_program_that_inherits_the_listening_socket_stays(proc: FakeProc) -> None:
    """Nginx upgrades its binary: fork, exec, the socket kept."""
    nginx(proc)
    found = discovery(proc)
    found.scan()
    proc.add(FakeProcess(15, 10, "/usr/sbin/nginx-new", sockets=(500,), start_stack=1))
    found.on_event(fork_event(10, 15))

    assert [] == found.on_event(exec_event(15, is_target=1))
    assert 10 == services(found)[15]


def test_a_service_that_systemd_starts_with_its_socket_is_found_by_its_exec(proc: FakeProc) -> None:
    """It never calls listen()."""
    proc.add(FakeProcess(1, 0, "/usr/lib/systemd/systemd", sockets=(900,)))
    proc.listen(900, 8080)
    found = discovery(proc)
    found.scan()
    proc.add(FakeProcess(50, 1, "/srv/app", sockets=(900,)))

    assert [Identity(50), Add(50, 50)] == found.on_event(exec_event(50))


def test_a_program_asked_for_by_its_path_is_watched_from_its_exec_on(proc: FakeProc) -> None:
    found = discovery(proc, Selection(exe_globs=("*/curl",)))
    found.scan()
    proc.add(FakeProcess(50, 1, CURL))
    proc.add(FakeProcess(51, 1, BASH))

    assert [Identity(50), Add(50, 50)] == found.on_event(exec_event(50))
    assert [] == found.on_event(exec_event(51))


def test_a_target_that_is_over_before_it_is_looked_at_is_named_all_the_same(proc: FakeProc) -> None:
    """The kernel has watched it from its exec on, so there are records of it."""
    found = discovery(proc, Selection(exe_globs=("*/curl",)))

    assert [Remove(4_000_000), Identity(4_000_000), Gone(4_000_000)] == found.on_event(exec_event(4_000_000, 1))
    assert {} == services(found)


def test_a_target_that_is_ending_when_it_is_looked_at_is_named_all_the_same(proc: FakeProc) -> None:
    """Its memory is gone, and with it the link to its program; it is not yet a zombie."""
    found = discovery(proc, Selection(exe_globs=("*/curl",)))
    proc.add(FakeProcess(50, 1, CURL, memory_bytes=0))

    assert [Remove(50), Identity(50), Gone(50)] == found.on_event(exec_event(50, 1))
    assert {} == services(found)


def test_a_leader_that_runs_another_program_renews_its_identity(proc: FakeProc) -> None:
    nginx(proc, workers=0)
    found = discovery(proc)
    found.scan()
    proc.add(FakeProcess(10, 1, "/srv/other", sockets=(500,)))

    assert [Identity(10)] == found.on_event(exec_event(10, is_target=1))


def test_an_exec_that_matches_nothing_changes_nothing_even_when_it_is_over_already(proc: FakeProc) -> None:
    found = discovery(proc)

    assert [] == found.on_event(exec_event(4_000_000))


def test_a_fork_of_a_parent_whose_event_was_lost_finds_the_parent(proc: FakeProc) -> None:
    found = discovery(proc)
    found.scan()
    nginx(proc, workers=1)

    assert [Identity(10), Add(10, 10), Add(11, 10)] == found.on_event(fork_event(10, 11))


def test_a_child_of_what_is_no_target_is_taken_out_of_the_map(proc: FakeProc) -> None:
    proc.add(FakeProcess(15, 1, CURL))
    proc.add(FakeProcess(16, 15, CURL))
    found = discovery(proc)

    assert [Leave(16)] == found.on_event(fork_event(15, 16))


# --- EXIT ---


def test_a_worker_that_ends_leaves_the_service_and_the_last_one_ends_it(proc: FakeProc) -> None:
    nginx(proc, workers=1)
    found = discovery(proc)
    found.scan()
    proc.remove(11)
    first = found.on_event(exit_event(11))
    proc.remove(10)

    assert [Remove(11)] == first
    assert [Remove(10), Gone(10)] == found.on_event(exit_event(10))
    assert {} == services(found)


def test_a_service_whose_leader_ends_goes_on_under_the_one_that_has_workers(proc: FakeProc) -> None:
    """Binary upgrade: old master 10 with worker 11, new master 20 with worker 21; the old master ends first."""
    nginx(proc, workers=1)
    proc.add(FakeProcess(20, 10, "/usr/sbin/nginx-new", sockets=(500,), start_ticks=5000, start_stack=88))
    proc.add(FakeProcess(21, 20, "/usr/sbin/nginx-new", sockets=(500,), start_ticks=5001, start_stack=88))
    found = discovery(proc)
    found.scan()
    assert {10: 10, 11: 10, 20: 10, 21: 10} == services(found)
    proc.remove(10)

    assert [Remove(10), Identity(20), Add(11, 20), Add(20, 20), Add(21, 20), Gone(10)] == found.on_event(exit_event(10))


def test_processes_that_end_together_do_not_elect_the_dead(proc: FakeProc) -> None:
    nginx(proc)
    found = discovery(proc)
    found.scan()
    for pid in (10, 11, 12):
        proc.remove(pid)
    changes: list[Change] = []
    for pid in (10, 11, 12):
        changes += found.on_event(exit_event(pid))

    assert [Remove(10), Remove(11), Remove(12), Gone(10)] == changes


# --- Lost events ---


def test_a_sweep_forgets_what_ended_unheard_and_what_has_its_number_now(proc: FakeProc) -> None:
    nginx(proc, workers=2)
    found = discovery(proc)
    found.scan()
    proc.remove(11)
    proc.add(FakeProcess(12, 1, CURL, start_ticks=999_999))

    assert {Remove(11), Remove(12)} == set(found.sweep())
    assert {10: 10} == services(found)


def test_a_rescan_finds_what_no_event_told(proc: FakeProc) -> None:
    found = discovery(proc)
    found.scan()
    nginx(proc, workers=1)
    first = found.rescan()
    proc.remove(11)

    assert {Identity(10), Add(10, 10), Add(11, 10)} == set(first)
    assert [Remove(11)] == found.rescan()


def test_a_rescan_lets_what_goes_on_end_what_it_has_begun(proc: FakeProc) -> None:
    """It has closed the port that it was selected by."""
    nginx(proc, workers=1)
    found = discovery(proc)
    found.scan()
    ticks = found.targets[11].start_ticks
    proc.remove(11)
    proc.add(FakeProcess(11, 1, CURL, start_ticks=ticks))

    assert [Leave(11)] == found.rescan()


def test_a_rescan_without_news_changes_nothing(proc: FakeProc) -> None:
    nginx(proc)
    found = discovery(proc)
    found.scan()

    assert [] == found.rescan()


def test_a_long_line_of_copies_does_not_end_the_agent(proc: FakeProc) -> None:
    """Any user can make one; it must cost time at most."""
    proc.add(FakeProcess(1000, 1, NGINX, sockets=(500,), start_stack=77))
    proc.listen(500, 80)
    for pid in range(1001, 1400):
        proc.processes[pid] = FakeProcess(pid, pid - 1, NGINX, sockets=(500,), start_stack=77)
    proc.write()
    found = discovery(proc)
    found.scan()

    assert 400 == len(found.targets)


# --- Real processes ---

PREFORK = """
import os, socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
server.set_inheritable(False)
stop, hold = os.pipe()
workers = []
for _ in range(2):
    workers.append(os.fork())
    if not workers[-1]:
        os.close(hold)
        os.read(stop, 1)
        os._exit(0)
other = subprocess.Popen([sys.executable, "-c", "input('ready\\\\n')"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
other.stdout.readline()
print(server.getsockname()[1], *workers, other.pid, flush=True)
sys.stdin.read()
other.communicate(b"\\n")
os.close(hold)
"""


def test_a_real_prefork_server_is_one_service_without_the_other_programs_it_runs() -> None:
    command = [sys.executable, "-c", PREFORK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port, *workers, other = (int(word) for word in server.stdout.readline().split())
        found = Discovery(Selection(open_ports=((port, port),)), [])
        found.scan()
        seen = services(found)
        exec_of_other = found.on_event(exec_event(other, is_target=1))
        listens = found.on_event(listen_event(server.pid, port, is_target=1))
        server.stdin.close()

    assert dict.fromkeys([server.pid, *workers], server.pid) == seen
    assert other not in seen
    assert [Leave(other)] == exec_of_other
    assert [Identity(server.pid)] == listens
