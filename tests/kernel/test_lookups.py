"""Names that this process looks up before it connects, in each form of uprobes that this kernel has."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_ebpf.probe.lookup_watch import LookupWatch
from otel_ebpf.probe.maps import TARGET
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.probed_files import LINGER_TICKS
from otel_ebpf.probe.programs import LOOKUP_PROGRAMS
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.tls_watch import TARGET_WITHOUT_RETURN_PROBES
from otel_ebpf.probe.uprobes import UprobeForm
from otel_ebpf.records.kinds import Counter, Lookup
from tests.kernel.probed import FORMS, Probed
from tests.services.processes import VENV_BIN, free_port
from tests.services.servers import program

pytestmark = pytest.mark.kernel

LOOPBACK = (socket.AF_INET, bytes([127, 0, 0, 1]) + bytes(12))
AT_NS = struct.Struct("<8xQ16x")  # at_monotonic_ns of struct answer
REQUEST, RESPONSE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"


class LookupsWatched(Probed):
    """This process with its libc, in one form."""

    def __init__(self, prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm) -> None:
        super().__init__(prepared, hooks, form, LOOKUP_PROGRAMS)
        self.watch_of_libc = self.with_watch(LookupWatch)
        self.look()

    def detach(self) -> None:
        """As when nobody uses the library any more, for some time."""
        self.watch_of_libc.forget(os.getpid())
        for _ in range(LINGER_TICKS + 1):
            self.watch_of_libc.tick()

    def connection(self, local_port: int) -> int:
        (found,) = {one.connection for one in self.done if one.local_port == local_port}
        return found

    def told(self) -> list[Lookup]:
        """Behind an exchange that came later, so none is still to come."""
        self.until(lambda done: len(done) >= 2)
        return self.lookups


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form.name.lower())
def seen_by(request: pytest.FixtureRequest, prepared: PreparedParts, hooks: SocketHooks) -> Iterator[LookupsWatched]:
    """Older kernels have fewer forms."""
    watched = LookupsWatched(prepared, hooks, request.param)
    yield watched
    watched.close()


@pytest.fixture
def watched(seen_by: LookupsWatched) -> LookupsWatched:
    for name in ("answers", "claims", "lookups"):
        for key in list(seen_by.maps[name].keys()):
            seen_by.maps[name].delete(key)
    seen_by.fresh()
    return seen_by


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def ask(name: str = "localhost", port: int | None = None) -> None:
    socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)


def call(listener: socket.socket) -> int:
    """Connects without asking for any name, and exchanges one request; the client's port."""
    with socket.socket() as client:
        client.connect(listener.getsockname())
        accepted, (_, port) = listener.accept()
        with accepted:
            client.sendall(REQUEST)
            accepted.recv(1000)
            accepted.sendall(RESPONSE)
            client.recv(1000)
    return port


def in_other_thread(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as other:
        other.submit(work).result()


def test_a_name_is_told_with_the_connection_that_follows(watched: LookupsWatched, listener: socket.socket) -> None:
    before_ns = time.monotonic_ns()
    ask()
    after_ns = time.monotonic_ns()
    call(listener)

    (told,) = watched.told()

    assert (b"localhost", True, os.getpid(), threading.get_native_id()) == (
        told.name,
        told.is_same_thread,
        told.pid,
        told.tid,
    )
    assert (LOOPBACK,) == told.answers
    assert (True, 0) == (told.is_only_name, told.former_connection)
    assert before_ns <= told.start_monotonic_ns <= told.end_monotonic_ns <= after_ns
    assert {told.connection} == {one.connection for one in watched.done if one.remote_port == listener.getsockname()[1]}


def test_an_address_that_refuses_is_followed_by_the_next_one(watched: LookupsWatched, listener: socket.socket) -> None:
    """As `localhost` may be ::1 first, where nobody listens."""
    ask()
    with socket.socket() as refused, pytest.raises(ConnectionRefusedError):
        refused.connect(("127.0.0.1", free_port()))
    call(listener)

    (told,) = watched.told()

    assert (b"localhost", True) == (told.name, told.is_same_thread)


def test_an_answer_of_ipv4_may_be_called_through_a_socket_of_ipv6(
    watched: LookupsWatched, listener: socket.socket
) -> None:
    """As Java and .NET do."""
    ask()
    with socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(REQUEST)
            accepted.recv(1000)
            accepted.sendall(RESPONSE)
            client.recv(1000)

    (told,) = watched.told()

    assert (b"localhost", True) == (told.name, told.is_same_thread)


def test_without_hints_each_address_is_told_once(watched: LookupsWatched, listener: socket.socket) -> None:
    socket.getaddrinfo("localhost", None, socket.AF_INET)
    call(listener)

    (told,) = watched.told()

    assert (LOOPBACK,) == told.answers


def test_a_second_connection_has_not_waited(watched: LookupsWatched, listener: socket.socket) -> None:
    ask()
    ports = [call(listener), call(listener)]
    watched.until(lambda done: len(done) >= 4)

    (told,) = watched.lookups

    assert {told.connection} == {one.connection for one in watched.done if one.local_port == ports[0]}


def test_another_thread_may_have_asked(watched: LookupsWatched, listener: socket.socket) -> None:
    """As in event loops, whose lookups are made by threads of their own."""
    in_other_thread(ask)
    call(listener)

    (told,) = watched.told()

    assert (b"localhost", False, os.getpid()) == (told.name, told.is_same_thread, told.pid)
    assert threading.get_native_id() != told.tid


@pytest.mark.parametrize("threads", [1, 2])
def test_of_two_lookups_neither_is_told_for_another_thread(
    threads: int, watched: LookupsWatched, listener: socket.socket
) -> None:
    """Whose connection it is cannot be known."""
    for names in [("localhost", "localhost")] if threads == 1 else [("localhost",), ("localhost",)]:
        in_other_thread(lambda names=names: [ask(name) for name in names])
    call(listener)

    assert [] == watched.told()


def test_a_lookup_that_was_answered_for_is_in_nobodys_way(watched: LookupsWatched, listener: socket.socket) -> None:
    """As an event loop works: one call after the other."""
    ports = []
    for _ in range(2):
        in_other_thread(ask)
        ports.append(call(listener))
    watched.until(lambda done: len(done) >= 4)

    assert [watched.connection(port) for port in ports] == [told.connection for told in watched.lookups]


def test_what_another_threads_connection_was_told_is_taken_back(
    watched: LookupsWatched, listener: socket.socket
) -> None:
    """It had the address from elsewhere, and was first; which of the two had waited, nobody knows."""
    in_other_thread(ask)
    ports = [call(listener) for _ in range(3)]
    watched.until(lambda done: len(done) >= 6)

    first, second = watched.lookups
    connections = [watched.connection(port) for port in ports]
    assert [connections[0], 0, False] == [first.connection, first.former_connection, first.is_same_thread]
    assert [connections[1], connections[0]] == [second.connection, second.former_connection]
    assert not second.is_same_thread


def test_the_thread_that_asked_gets_back_what_was_its_own(watched: LookupsWatched, listener: socket.socket) -> None:
    ask()
    ports: list[int] = []
    in_other_thread(lambda: ports.append(call(listener)))
    ports.append(call(listener))
    watched.until(lambda done: len(done) >= 4)

    first, second = watched.lookups
    connections = [watched.connection(port) for port in ports]
    assert [connections[0], 0, False] == [first.connection, first.former_connection, first.is_same_thread]
    assert [connections[1], connections[0], True] == [
        second.connection,
        second.former_connection,
        second.is_same_thread,
    ]


@pytest.mark.parametrize("is_connected", [False, True])
def test_an_address_that_has_two_names_is_told_so(
    is_connected: bool, watched: LookupsWatched, listener: socket.socket
) -> None:
    """The connection may have been meant for either, whether the first one was used already or not."""
    ask("localhost")
    if is_connected:
        call(listener)
    ask("LOCALHOST")
    call(listener)
    watched.until(lambda done: len(done) >= 2 + 2 * is_connected)

    assert [(b"localhost", True)] * is_connected + [(b"LOCALHOST", False)] == [
        (told.name, told.is_only_name) for told in watched.lookups
    ]


def test_a_lookup_for_another_port_is_not_told(watched: LookupsWatched, listener: socket.socket) -> None:
    """A database and a web server may be on one host."""
    ask(port=1)
    call(listener)
    assert [] == watched.told()

    ask(port=listener.getsockname()[1])
    call(listener)
    watched.until(lambda done: len(done) >= 4)
    assert [b"localhost"] == [told.name for told in watched.lookups]


def test_of_two_threads_that_asked_the_one_that_connects_is_told(
    watched: LookupsWatched, listener: socket.socket
) -> None:
    in_other_thread(lambda: ask("LocalHost"))
    ask()
    call(listener)

    (told,) = watched.told()

    assert (b"localhost", True) == (told.name, told.is_same_thread)


def test_an_address_is_no_name_and_hides_none(watched: LookupsWatched, listener: socket.socket) -> None:
    """Programs ask for names, then hand the address on to a library that asks for it again."""
    call(listener)
    for address in ("127.0.0.1", "127.1"):
        ask(address)
    call(listener)
    watched.until(lambda done: len(done) >= 4)
    assert [] == watched.lookups

    ask()
    ask("127.0.0.1")
    call(listener)
    watched.until(lambda done: len(done) >= 6)

    assert [b"localhost"] == [told.name for told in watched.lookups]


def test_what_failed_and_what_is_for_listening_is_not_told(watched: LookupsWatched, listener: socket.socket) -> None:
    """What failed is counted."""
    before = watched.counter(Counter.LOOKUPS_FAILED)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("localhost", 80, flags=socket.AI_NUMERICHOST)
    socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE)
    socket.getaddrinfo("localhost", 80, socket.AF_INET, socket.SOCK_DGRAM)
    call(listener)

    assert [] == watched.told()
    assert 1 == watched.counter(Counter.LOOKUPS_FAILED) - before


def test_an_answer_is_not_for_ever(watched: LookupsWatched, listener: socket.socket) -> None:
    """Five seconds later a connection to the address may have another reason."""
    ask()
    answers = watched.maps["answers"]
    for key in list(answers.keys()):
        value = bytearray(answers.lookup(key) or b"")
        (at_ns,) = AT_NS.unpack(value)
        value[8:16] = (at_ns - 5_000_000_000).to_bytes(8, "little")
        answers.update(key, bytes(value))
    call(listener)

    assert [] == watched.told()


def test_a_process_that_bears_no_return_probe_is_told_of(watched: LookupsWatched, listener: socket.socket) -> None:
    """There is none."""
    pid = struct.pack("<I", os.getpid())
    watched.maps["targets"].update(pid, TARGET.pack(os.getpid(), TARGET_WITHOUT_RETURN_PROBES))
    try:
        ask()
        call(listener)
        assert [b"localhost"] == [told.name for told in watched.told()]
    finally:
        watched.watch(os.getpid())


def test_a_process_that_switches_stacks_survives(watched: LookupsWatched, tmp_path: Path) -> None:
    """greenlet copies stacks away and back while its threads look names up; and while the probes come and go."""
    script = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, gevent.monkey, socket\n"
        "direct = gevent.monkey.get_original('socket', 'getaddrinfo')\n"
        "def work(number):\n"
        "    for turn in range(20):\n"
        "        (direct if turn % 2 else socket.getaddrinfo)('localhost', None)\n"
        "        gevent.sleep(0)\n"
        "    return number\n"
        "print('ready', flush=True)\n"
        "for line in iter(input, 'end'):\n"
        "    jobs = [gevent.spawn(work, number) for number in range(50)]\n"
        "    print(sum(job.get() for job in jobs), flush=True)\n"
    )
    command = [str(VENV_BIN / "python"), "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        for is_watched in (False, True):
            if is_watched:
                watched.watch(process.pid)
                watched.look(process.pid)
            for _ in range(3):
                process.stdin.write("go\n")
                process.stdin.flush()
                watched.detach()
                watched.look(os.getpid())
                assert f"{sum(range(50))}\n" == process.stdout.readline()
        process.communicate("end\n", timeout=30)
        assert 0 == process.returncode
    watched.unwatch(process.pid)
    watched.watch_of_libc.forget(process.pid)


def test_musl(watched: LookupsWatched, listener: socket.socket, tmp_path: Path) -> None:
    source, client = Path(__file__).parents[1] / "services" / "musl_client.c", tmp_path / "client"
    subprocess.run([program("musl-gcc"), "-Wall", "-Werror", str(source), "-o", str(client)], check=True)
    command = [str(client), str(listener.getsockname()[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        watched.look(process.pid)
        watched.watch(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(1000)
            accepted.sendall(RESPONSE)
        assert 0 == process.wait(10)
        told = watched.told()
    watched.unwatch(process.pid)
    watched.watch_of_libc.forget(process.pid)

    assert [(b"localhost", True, process.pid, (LOOPBACK,))] == [
        (one.name, one.is_same_thread, one.pid, one.answers) for one in told
    ]


def test_a_library_that_was_replaced_is_probed_where_it_is_mapped(
    watched: LookupsWatched, listener: socket.socket, tmp_path: Path
) -> None:
    """By an upgrade, while processes go on with what they have mapped."""
    copy = tmp_path / "libc.so.6"
    with open("/proc/self/maps") as maps:
        libc = next(line.split()[-1] for line in maps if line.rstrip().endswith("/libc.so.6"))
    shutil.copy(libc, copy)
    script = (
        "import socket, sys\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "client = socket.create_connection(('localhost', int(sys.argv[1])))\n"
        "client.sendall(b'GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n"
        "client.recv(1000)\n"
    )
    command = [sys.executable, "-c", script, str(listener.getsockname()[1])]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"LD_LIBRARY_PATH": str(tmp_path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        shutil.copy(libc, tmp_path / "new")
        (tmp_path / "new").rename(copy)
        watched.look(process.pid)
        watched.watch(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(1000)
            accepted.sendall(RESPONSE)
        process.wait(10)
        told = watched.told()
    watched.unwatch(process.pid)
    watched.watch_of_libc.forget(process.pid)
    for _ in range(LINGER_TICKS + 1):
        watched.watch_of_libc.tick()

    assert [(b"localhost", process.pid)] == [(one.name, one.pid) for one in told]


def test_nothing_is_attached_without_targets(watched: LookupsWatched, listener: socket.socket) -> None:
    watched.watch_of_libc.forget(os.getpid())
    for _ in range(LINGER_TICKS):
        watched.watch_of_libc.tick()
    assert 1 == watched.watch_of_libc.probed_count, "the next process may come at once"
    watched.watch_of_libc.tick()
    try:
        assert 0 == watched.watch_of_libc.probed_count
        ask()
        call(listener)
        assert [] == watched.told()
    finally:
        watched.look(os.getpid())
    assert 1 == watched.watch_of_libc.probed_count
