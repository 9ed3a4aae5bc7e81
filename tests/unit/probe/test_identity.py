"""What is read of a process to name its service."""

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

from otel_ebpf.probe.identity import identify, identify_as_told
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.records.frames import decode_frame, encode_frame
from otel_ebpf.records.kinds import ProcessEvent, ProcessEventKind
from otel_ebpf.telemetry.resource import HostFacts, resource_attributes
from tests.unit.probe.fake_proc import FakeProc, FakeProcess


def test_a_process_is_named_by_its_own_facts(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n")
    environ = ("PASSWORD=secret", "OTEL_SERVICE_NAME=shop", "OTEL_RESOURCE_ATTRIBUTES=a=1")
    cgroup = f"0::/docker/{'ab' * 32}\n"
    proc.add(
        FakeProcess(10, argv=("python3", "app.py"), environ=environ, sockets=(7, 8), start_ticks=55, cgroup=cgroup)
    )
    (proc.root / "self").mkdir()
    (proc.root / "self/root").symlink_to("/")
    proc.listen(7, 8080)
    proc.listen(8, 80)
    identity = identify(10, Procfs(str(proc.root)), str(tmp_path / "passwd"))

    assert identity is not None
    assert (10, 55, b"service") == (identity.pid, identity.start_ticks, identity.command)
    assert b"/usr/bin/python3.11" == identity.executable
    assert (b"python3", b"app.py") == identity.argv
    assert {"OTEL_SERVICE_NAME": b"shop", "OTEL_RESOURCE_ATTRIBUTES": b"a=1"} == identity.environ
    assert b"/srv/shop" == identity.working_directory
    assert "ab" * 32 == identity.container_id
    assert (80, 8080) == identity.listening_ports
    assert identity.owner == "www-data"


def test_the_owner_of_a_process_with_other_files_is_a_number(tmp_path: Path) -> None:
    """In a container, user 33 may be someone else than this host's user 33."""
    proc = FakeProc(tmp_path / "proc")
    proc.add(FakeProcess(10))
    (proc.root / "self").mkdir()
    (proc.root / "self/root").symlink_to(tmp_path)
    (tmp_path / "passwd").write_text("www-data:x:33:33::/var/www:/bin/false\n")
    identity = identify(10, Procfs(str(proc.root)), str(tmp_path / "passwd"))

    assert identity is not None
    assert identity.owner == "33"


def test_what_has_ended_is_named_by_what_the_kernel_told_of_its_exec() -> None:
    event = ProcessEvent(ProcessEventKind.EXEC, 50, 0, 0, 1, b"a-name-of-15-by", 7, 8)
    named = identify_as_told(event, b"/opt/bin/a-name-of-15-bytes-and-more")
    attributes = resource_attributes(named, HostFacts("host", "", "", ""), "1")

    assert decode_frame(encode_frame(named)) == named
    assert attributes["process.pid"] == 50
    assert attributes["process.executable.path"] == "/opt/bin/a-name-of-15-bytes-and-more"
    assert attributes["service.name"] == "a-name-of-15-bytes-and-more"
    assert "process.owner" not in attributes
    assert identify_as_told(event, b"").command == b"a-name-of-15-by"


def test_a_number_that_is_given_away_while_it_is_read_names_nobody(tmp_path: Path) -> None:
    class Reused(Procfs):
        def working_directory(self, pid: int) -> bytes | None:
            proc.add(FakeProcess(10, start_ticks=99))
            return super().working_directory(pid)

    proc = FakeProc(tmp_path)
    proc.add(FakeProcess(10, start_ticks=55))

    assert identify(10, Reused(str(tmp_path))) is None


def test_facts_of_a_process_that_ended_meanwhile_are_refused(tmp_path: Path) -> None:
    """It is still there for a moment, and runs nothing any more."""

    class Ending(Procfs):
        def executable(self, pid: int) -> bytes | None:
            proc.add(FakeProcess(10, memory_bytes=0))
            return super().executable(pid)

    proc = FakeProc(tmp_path)
    proc.add(FakeProcess(10))

    assert identify(10, Ending(str(tmp_path))) is None


def test_a_process_that_is_gone_has_no_identity(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.add(FakeProcess(11, state="Z"))

    assert identify(10, Procfs(str(tmp_path))) is None
    assert identify(11, Procfs(str(tmp_path))) is None


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    """Enough to name the process by its number, and no guess."""
    folder = tmp_path / "10"
    folder.mkdir()
    (folder / "stat").write_text("10 (x) S " + "1 " * 30)
    identity = identify(10, Procfs(str(tmp_path)))

    assert identity is not None
    assert (b"", (), {}, b"", "", (), "") == (
        identity.executable,
        identity.argv,
        identity.environ,
        identity.working_directory,
        identity.container_id,
        identity.listening_ports,
        identity.owner,
    )


def test_everything_has_a_bound(tmp_path: Path) -> None:
    """Other users choose these bytes."""
    proc = FakeProc(tmp_path)
    attributes = "OTEL_RESOURCE_ATTRIBUTES=" + ",".join(f"k{number}=v" for number in range(50_000))
    proc.add(
        FakeProcess(10, argv=("x" * 100, *["\x01" * 100] * 5000), environ=(attributes,), sockets=tuple(range(1, 400)))
    )
    proc.listening = [(4026531840, inode, inode) for inode in range(1, 400)]
    proc.write()
    identity = identify(10, Procfs(str(tmp_path)))

    assert identity is not None
    assert sum(len(word) + 1 for word in identity.argv) <= 8193
    assert 256 == len(identity.listening_ports)
    kept = identity.environ["OTEL_RESOURCE_ATTRIBUTES"]
    assert 8000 < len(kept) <= 8192
    assert attributes.encode().startswith(b"OTEL_RESOURCE_ATTRIBUTES=" + kept + b",")
    assert len(encode_frame(identity)) <= 65536


def test_a_real_process_is_read_whole_and_crosses_the_channel(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = "import sys; print('ready', flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env={"OTEL_SERVICE_NAME": "shop", "TOKEN": "secret"},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[server.fileno()],
        ) as child:
            assert child.stdout is not None
            assert child.stdin is not None
            assert b"ready\n" == child.stdout.readline()
            identity = identify(child.pid, Procfs())
            child.stdin.close()

        assert identity is not None
        assert (server.getsockname()[1],) == identity.listening_ports
        assert os.fsencode(os.path.realpath(sys.executable)) == identity.executable
        assert {"OTEL_SERVICE_NAME": b"shop"} == identity.environ
        assert os.fsencode(tmp_path) == identity.working_directory
        assert pwd.getpwuid(os.geteuid()).pw_name == identity.owner
        assert identity == decode_frame(encode_frame(identity))
