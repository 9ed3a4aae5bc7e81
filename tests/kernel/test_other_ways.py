"""Bytes that reach sockets by other ways than the system calls for it: kprobes see them, a tracepoint on system calls does not.

Every test says what is expected of both, and looks which hooks are in use; none is left out on either.
"""

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Role
from otel_ebpf.probe import bpf
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.programs import SocketBackend
from otel_ebpf.probe.socket_hooks import SocketHooks, choose_hooks
from otel_ebpf.records.kinds import Counter
from tests.kernel.test_exchanges_on_the_wire import GET, OK, PLAIN, summary
from tests.kernel.test_ledger import counts_of
from tests.kernel.wire import Watched, Wire
from tests.services.c_programs import build_c
from tests.services.processes import free_port, running
from tests.services.servers import SERVICES

pytestmark = pytest.mark.kernel

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6, "unix": socket.AF_UNIX}
SERVED = (b"GET", b"/by-a-program", 200, 0, 2, Outcome.COMPLETE)


def test_the_hooks_are_those_that_were_asked_for(hooks: SocketHooks, loaded_programs: Loaded, watched: Watched):
    wanted = os.environ.get("OTEL_EBPF_SOCKET_BACKEND", "auto")

    assert wanted in (hooks.backend.value, "auto")
    assert hooks.sees_every_call == ("on_sys_exit" not in loaded_programs.programs)
    assert hooks.text == watched.attachments.socket_backend
    for name in ("on_moved", "on_sys_exit"):
        if name in loaded_programs.programs:
            assert 0 < bpf.program_info(loaded_programs.programs[name]).jited_bytes


def test_without_kprobes_the_tracepoint_is_chosen_and_the_reason_told(hooks: SocketHooks):
    """Where there are kprobes they are chosen, unless something else is asked for."""
    chosen = choose_hooks()
    try:
        has_kprobes = Path("/sys/bus/event_source/devices/kprobe").is_dir()
        expected = (SocketBackend.KPROBE if has_kprobes else SocketBackend.TRACEPOINT, True)
        assert expected == (chosen.backend, bool(chosen.why))
    finally:
        chosen.close()
    assert SocketBackend.TRACEPOINT is choose_hooks("tracepoint").backend


@contextmanager
def two_wires(family: socket.AddressFamily, folder: Path) -> Iterator[tuple[Wire, Wire]]:
    """From a client to a relay, and from the relay to a server."""
    with ExitStack() as opened:
        wires = []
        for name in ("front", "back"):
            (folder / name).mkdir()
            wires.append(Wire(family, folder / name))
            opened.callback(wires[-1].close)
        yield wires[0], wires[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relay_that_splices_is_an_end_of_both_connections(
    family: str, hooks: SocketHooks, watched: Watched, tmp_path: Path
):
    """Not a byte of it is in its memory. Without kprobes the client and the server behind it are seen alone."""
    body = bytes(range(33, 123)) * 400
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    reader, writer = os.pipe()

    def relay(sender: socket.socket, receiver: socket.socket, count: int) -> None:
        while count:
            moved = os.splice(sender.fileno(), writer, count)
            count -= moved
            while moved:
                moved -= os.splice(reader, receiver.fileno(), moved)

    def receive(receiver: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += receiver.recv(count - len(data))
        return data

    with two_wires(FAMILIES[family], tmp_path) as (front, back):
        for _ in range(3):
            front.client.sendall(GET)
            relay(front.server, back.client, len(GET))
            assert GET == receive(back.server, len(GET))
            back.server.sendall(answer)
            relay(back.client, front.server, len(answer))
            assert answer == receive(front.client, len(answer))
        seen_by_ends = 2 if hooks.sees_every_call else 1
        watched.until(lambda done: len(done) == 6 * seen_by_ends)
    os.close(reader)
    os.close(writer)

    expected = (b"GET", b"/a", 200, 0, len(body), Outcome.COMPLETE)
    for role in (Role.SERVER, Role.CLIENT):
        assert [expected] * 3 * seen_by_ends == [summary(found) for found in watched.exchanges(role)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relay_that_splices_bodies_alone_is_seen_with_either_hooks(family: str, watched: Watched, tmp_path: Path):
    """lighttpd and HAProxy read heads into their memory, and leave the rest in the kernel."""
    body = bytes(range(33, 123)) * 900
    request = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    reader, writer = os.pipe()

    def relay(sender: socket.socket, receiver: socket.socket, head: bytes) -> None:
        """Of a message that comes from `sender`, a part of its body with its head."""
        receiver.sendall(sender.recv(len(head) + 70, socket.MSG_WAITALL))
        left = len(body) - 70
        while left:
            moved = os.splice(sender.fileno(), writer, left)
            left -= moved
            while moved:
                moved -= os.splice(reader, receiver.fileno(), moved)

    with two_wires(FAMILIES[family], tmp_path) as (front, back), ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            for sender, between, head in (
                (front.client, (front.server, back.client, back.server), request),
                (back.server, (back.client, front.server, front.client), answer),
            ):
                sent = threads.submit(sender.sendall, head + body)
                relaying = threads.submit(relay, *between[:2], head)
                received = between[2].recv(len(head + body), socket.MSG_WAITALL)
                for done in (sent, relaying):
                    done.result(60)
                assert head + body == received
        watched.until(lambda done: len(done) == 12)
    os.close(reader)
    os.close(writer)

    expected = (b"PUT", b"/a", 200, len(body), len(body), Outcome.COMPLETE)
    for role in (Role.SERVER, Role.CLIENT):
        assert [expected] * 6 == [summary(found) for found in watched.exchanges(role)]


def test_a_chunked_response_that_is_spliced_is_followed_to_its_end(
    hooks: SocketHooks, watched: Watched, tmp_path: Path
):
    """In pages of the kernel as in memory."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in (1, 5000, 70, 9000)) + b"0\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    path = tmp_path / "response"
    path.write_bytes(response)
    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(GET)
    send_file(wire, path)
    expected = (b"GET", b"/a", 200, 0, 1 + 5000 + 70 + 9000, Outcome.COMPLETE)
    roles = [Role.SERVER, Role.CLIENT] if hooks.sees_every_call else [Role.CLIENT]
    watched.until(lambda done: len(done) >= len(roles))
    wire.close()

    for role in roles:
        assert [expected] == [summary(found) for found in watched.exchanges(role)]


def send_file(wire: Wire, path: Path) -> None:
    """And reads it all at the other end."""
    count = path.stat().st_size
    with path.open("rb") as file:
        while count:
            sent = os.sendfile(wire.server.fileno(), file.fileno(), None, count)
            count -= sent
            while sent:
                sent -= len(wire.client.recv(sent))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_response_from_a_file_is_read(family: str, hooks: SocketHooks, watched: Watched, tmp_path: Path):
    """Its head, too, is sent by sendfile. Without kprobes it does not begin like an answer."""
    path = tmp_path / "response"
    path.write_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"f" * 90_000)
    wire = Wire(FAMILIES[family], tmp_path)
    wire.c(GET)
    send_file(wire, path)
    watched.until(lambda done: len(done) == (2 if hooks.sees_every_call else 1))
    wire.close()

    whole = (b"GET", b"/a", 200, 0, 90_000, Outcome.COMPLETE)
    assert [whole] == [summary(found) for found in watched.exchanges(Role.CLIENT)]
    found = [summary(exchange) for exchange in watched.exchanges(Role.SERVER)]
    assert (found == [whole]) == hooks.sees_every_call, found


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_bytes", ctypes.c_uint32),
        ("iovecs", ctypes.POINTER(Iovec)),
        ("iovec_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_bytes", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    _fields_ = (("message", Msghdr), ("moved_bytes", ctypes.c_uint32))


def test_several_messages_in_one_system_call_are_seen_one_by_one(hooks: SocketHooks, watched: Watched, tmp_path: Path):
    """sendmmsg(). What it sends is received by plain calls, so both ends see a half of each exchange in any case."""
    libc = ctypes.CDLL(None, use_errno=True)

    def send(end: socket.socket, *pieces: bytes) -> None:
        buffers = [ctypes.create_string_buffer(piece, len(piece)) for piece in pieces]
        vectors = [Iovec(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
        messages = (Mmsghdr * len(pieces))(
            *(Mmsghdr(Msghdr(iovecs=ctypes.pointer(vector), iovec_count=1)) for vector in vectors)
        )
        assert len(pieces) == libc.sendmmsg(end.fileno(), messages, len(pieces), 0)

    before = watched.counter(Counter.CALLS_UNSEEN)
    wire = Wire(socket.AF_INET, tmp_path)
    for _ in range(2):
        send(wire.client, GET[:10], GET[10:])
        assert GET == wire.server.recv(len(GET), socket.MSG_WAITALL)
        send(wire.server, OK[:20], OK[20:])
        assert OK == wire.client.recv(len(OK), socket.MSG_WAITALL)
    expected = [PLAIN] * 2 if hooks.sees_every_call else []
    watched.until(lambda done: len(done) >= 2 * len(expected), 30.0 if expected else 0.3)
    wire.close()

    for role in (Role.CLIENT, Role.SERVER):
        complete = [found for found in watched.exchanges(role) if found.outcome is Outcome.COMPLETE]
        assert expected == [summary(found) for found in complete]
    assert (0 if hooks.sees_every_call else 4) == watched.counter(Counter.CALLS_UNSEEN) - before


@contextmanager
def served_by(program: Path, watched: Watched, log: Path) -> Iterator[tuple[int, int]]:
    """Its process and port, watched."""
    port = free_port()
    with running([str(program), str(port)], ("127.0.0.1", port), log=log) as process:
        watched.watch(process.pid)
        try:
            yield process.pid, port
        finally:
            watched.unwatch(process.pid)


PROGRAMS = {
    "io_uring": ("server_io_uring.c", (), Counter.IO_URING),
    "32-bit": ("server_32_bit.c", ("-m32", "-nostdlib", "-static"), Counter.COMPAT_SYSCALLS),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_server_that_makes_no_system_call_that_is_read(
    kind: str, hooks: SocketHooks, watched: Watched, tmp_path: Path
):
    """Every request of it is seen by kprobes; by the tracepoint none is, and that is counted."""
    source, flags, counter = PROGRAMS[kind]
    with served_by(build_c(SERVICES / source, *flags), watched, tmp_path / "log") as (pid, port):
        before = counts_of(watched, pid)[counter]
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(GET.replace(b"/a", b"/by-a-program"))
                assert b"ok" == client.makefile("rb").read()[-2:]

        def served() -> list[Exchange]:
            return [found for found in watched.done if found.pid == pid]

        expected = [SERVED] * 5 if hooks.sees_every_call else []
        watched.until(lambda _: len(served()) >= len(expected), 30.0 if expected else 0.3)

        assert expected == [summary(found) for found in served()]
        assert hooks.sees_every_call == (counts_of(watched, pid)[counter] == before)
        assert {Role.SERVER} >= {found.role for found in served()}


def test_all_threads_may_wait_in_a_call_at_once(watched: Watched, tmp_path: Path):
    """A return probe holds a place for each of them: a kernel that was not asked for more has two for each processor."""
    count = 64
    program = f"""
import socket, threading
def serve(end):
    while end.recv({len(GET)}, socket.MSG_WAITALL):
        end.sendall({OK!r})
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    ends = [listener.accept()[0] for _ in range({count})]
threads = [threading.Thread(target=serve, args=(end,)) for end in ends]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    before = watched.counter(Counter.CALLS_UNSEEN)
    with subprocess.Popen(["/usr/bin/python3", "-c", program], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        watched.watch(server.pid)
        clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
        for _ in range(2):
            for client in clients:
                client.sendall(GET)
            for client in clients:
                assert OK == client.recv(len(OK), socket.MSG_WAITALL)
        for client in clients:
            client.close()
        server.wait(60)
    watched.until(lambda done: len(done) == 4 * count)
    watched.unwatch(server.pid)

    assert [PLAIN] * 2 * count == [summary(found) for found in watched.done if found.pid == server.pid]
    assert before == watched.counter(Counter.CALLS_UNSEEN)


def test_a_call_whose_return_was_not_seen_ends_what_is_known_of_its_connection(
    hooks: SocketHooks, watched: Watched, tmp_path: Path
):
    """Bytes may have been moved that nobody has seen. Found out with the thread's next call.

    A tracepoint at the return of system calls has no such calls.
    """
    before = watched.counter(Counter.CALLS_UNSEEN)
    wire = Wire(socket.AF_INET, tmp_path)
    wire.c(GET)
    watched.until(lambda _: len(watched.records) == 2)
    (server,) = (record.connection for record in watched.records if record.role == Role.SERVER)
    if hooks.sees_every_call:
        thread = struct.pack("<II", threading.get_native_id(), os.getpid())
        left_open = watched.maps["open_calls"].lookup(thread)
        assert left_open is not None
        (sock,) = (
            key for key, value in watched.maps["connections"].items() if value.startswith(struct.pack("<Q", server))
        )
        watched.maps["open_calls"].update(thread, sock + left_open[8:])
    wire.s(OK)
    wire.c(GET)
    wire.s(OK)
    watched.until(lambda _: len(watched.exchanges(Role.CLIENT)) == 2)
    wire.close()

    lost = 1 if hooks.sees_every_call else 0
    assert lost == watched.counter(Counter.CALLS_UNSEEN) - before
    assert [PLAIN] * 2 == [summary(found) for found in watched.exchanges(Role.CLIENT)]
    complete = [found for found in watched.exchanges(Role.SERVER) if found.outcome is Outcome.COMPLETE]
    assert (0 if lost else 2) == len(complete)
