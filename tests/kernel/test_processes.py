"""What the kernel tells of processes: exec, fork and exit of targets, listen."""

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_ebpf.probe.maps import TARGET
from otel_ebpf.records.decode import decode_process_event
from otel_ebpf.records.kinds import ProcessEvent, ProcessEventKind
from otel_ebpf.records.ring import RingReader
from tests.kernel.wire import LONGEST_WAIT_SECONDS, Watched, Wire
from tests.services.processes import free_port, wait_until

pytestmark = pytest.mark.kernel

EVENT_RING_PAGES = 32  # limits.h


class Events:
    def __init__(self, watched: Watched) -> None:
        size_bytes = EVENT_RING_PAGES * os.sysconf("SC_PAGESIZE")
        self._ring = RingReader(watched.maps["process_events"].fd, size_bytes)
        self._ring.drain(lambda *_: None, self._ring.produced)
        self._seen: list[ProcessEvent] = []

    def until(
        self, is_wanted: Callable[[ProcessEvent], bool], seconds: float = LONGEST_WAIT_SECONDS
    ) -> ProcessEvent | None:
        deadline = time.monotonic() + seconds
        while True:
            self._ring.drain(lambda *sample: self._seen.append(decode_process_event(*sample)), self._ring.produced)
            for event in self._seen:
                if is_wanted(event):
                    return event
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)

    def close(self) -> None:
        self._ring.close()


@pytest.fixture
def events(watched: Watched) -> Iterator[Events]:
    made = Events(watched)
    yield made
    made.close()


def of(kind: ProcessEventKind, pid: int) -> Callable[[ProcessEvent], bool]:
    return lambda event: event.kind == kind and event.pid == pid


@contextmanager
def selected(watched: Watched, port: int) -> Iterator[None]:
    word = struct.pack("<I", port // 64)
    watched.maps["selected_ports"].update(word, struct.pack("<Q", 1 << port % 64))
    try:
        yield
    finally:
        watched.maps["selected_ports"].update(word, bytes(8))


def is_target(watched: Watched, pid: int) -> bool:
    return watched.maps["targets"].lookup(struct.pack("<I", pid)) is not None


def test_a_child_of_a_target_is_a_target_before_it_does_anything(watched: Watched, events: Events):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(reader, 1)
        os._exit(0)
    try:
        event = events.until(of(ProcessEventKind.FORK, pid))
        entry, own = (watched.maps["targets"].lookup(struct.pack("<I", of)) for of in (pid, os.getpid()))
    finally:
        os.write(writer, b"x")
        os.waitpid(pid, 0)

    assert event is not None
    assert (os.getpid(), 1) == (event.parent_pid, event.is_target)
    assert os.getpid() == TARGET.unpack(entry or b"")[0]
    assert own == entry


def test_a_target_that_ends_is_forgotten(watched: Watched, events: Events):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)

    assert events.until(of(ProcessEventKind.EXIT, pid)) is not None
    assert not is_target(watched, pid)


def test_a_thread_that_ends_does_not_end_its_process(watched: Watched, events: Events):
    code = "import threading as t; w = t.Thread(target=int); w.start(); w.join(); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        still_there = is_target(watched, child.pid)
        gone_already = events.until(of(ProcessEventKind.EXIT, child.pid), seconds=0.05)
        child.stdin.write(b"\n")

    assert still_there
    assert gone_already is None
    assert events.until(of(ProcessEventKind.EXIT, child.pid)) is not None


def test_every_exec_is_told_also_of_a_process_that_lives_for_a_moment(events: Events):
    child = subprocess.Popen(["/bin/true"])
    child.wait()

    event = events.until(of(ProcessEventKind.EXEC, child.pid))

    assert event is not None
    assert b"true" == event.command


def test_listen_is_told_with_its_port(events: Events):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        event = events.until(lambda found: found.kind == ProcessEventKind.LISTEN and found.port == port)

    assert event is not None
    assert (os.getpid(), 1) == (event.pid, event.is_target)


@pytest.mark.parametrize("is_for_it", [True, False])
def test_a_program_that_begins_with_a_connection_says_so(
    is_for_it: bool, watched: Watched, events: Events, tmp_path: Path
):
    """As inetd starts one for each that it has accepted."""
    wire = Wire(socket.AF_INET, tmp_path)
    with subprocess.Popen(
        ["/bin/cat"], stdin=wire.server if is_for_it else wire.client, stdout=subprocess.DEVNULL
    ) as child:
        event = events.until(of(ProcessEventKind.EXEC, child.pid))
        wire.close()
    watched.unwatch(child.pid)

    assert event is not None
    assert (1, int(is_for_it)) == (event.is_target, event.port)


def test_a_process_that_listens_on_a_selected_port_is_a_target_at_once(watched: Watched, events: Events):
    """No user space in between: its first connection may come within the millisecond."""
    port = free_port()
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); input()"
    watched.unwatch(os.getpid())  # or the child would inherit it
    try:
        with (
            selected(watched, port),
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        ):
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            found = is_target(watched, child.pid)
            child.stdin.write(b"\n")
    finally:
        watched.watch(os.getpid())

    assert found


def test_an_excluded_process_stays_so_whatever_it_does(watched: Watched):
    """The agent's own: a listening socket of it does not make it a target."""
    key = struct.pack("<I", os.getpid())
    watched.maps["targets"].update(key, TARGET.pack(os.getpid(), 1))
    port = free_port()
    try:
        with selected(watched, port), socket.create_server(("127.0.0.1", port)):
            entry = watched.maps["targets"].lookup(key)
    finally:
        watched.watch(os.getpid())

    assert (os.getpid(), 1) == TARGET.unpack(entry or b"")


def test_a_process_of_a_known_executable_is_a_target_from_its_exec_on(watched: Watched, events: Events):
    """Without user space in between: some processes live for milliseconds."""
    watched.unwatch(os.getpid())  # or the child would inherit it
    try:
        first = subprocess.Popen(["/bin/true"])
        first.wait()
        told = events.until(of(ProcessEventKind.EXEC, first.pid))
        assert told is not None
        key = struct.pack("<QI4x", told.executable_inode, told.executable_device)
        watched.maps["executables"].update(key, bytes(4))
        second = subprocess.Popen(["/bin/true"])
        second.wait()
        known = events.until(of(ProcessEventKind.EXEC, second.pid))
        watched.maps["executables"].delete(key)
    finally:
        watched.watch(os.getpid())

    assert (os.stat("/bin/true").st_ino, 0) == (told.executable_inode, told.is_target)
    assert known is not None
    assert 1 == known.is_target


@pytest.mark.parametrize(
    ("last_step", "is_left_by"),
    [("return", "its end"), ("os.execv('/bin/cat', ['cat'])", "an exec, which gives it the first thread's number")],
    ids=["end", "exec"],
)
def test_what_a_thread_has_read_is_forgotten_when_it_leaves_its_number(
    watched: Watched, last_step: str, is_left_by: str
):
    """Also that of a process which is no target any more: the place is for those that run."""
    script = f"""
import os, sys, threading
def run():
    print(threading.get_native_id(), flush=True)
    sys.stdin.readline()
    {last_step}
thread = threading.Thread(target=run)
thread.start()
thread.join()
sys.stdin.readline()
"""
    threads = watched.maps["threads"]
    watched.unwatch(os.getpid())  # or the child would inherit it
    try:
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            key = struct.pack("<II", int(child.stdout.readline()), child.pid)
            threads.update(key, bytes(threads.value_bytes))
            child.stdin.write(b"\n")
            child.stdin.flush()
            wait_until(lambda: threads.lookup(key) is None, f"it is forgotten by {is_left_by}")
    finally:
        watched.watch(os.getpid())
