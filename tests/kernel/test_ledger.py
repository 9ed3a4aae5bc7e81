"""What the kernel counts for each service: two watched processes, each with its own account."""

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.probe.ledger import COUNTS, SHARED, LedgerWatch
from otel_ebpf.probe.loader import load
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import Part, programs_of
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.records.kinds import Counter
from tests.kernel.wire import Watched, Wire

pytestmark = pytest.mark.kernel

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LONG_GET = b"GET /a HTTP/1.1\r\nX: " + b"x" * 7000 + b"\r\n\r\n"
IO_URING_SETUP, IO_URING_ENTER = 425, 426


def counts_of(watched: Watched, service_pid: int) -> dict[Counter, int]:
    value = watched.maps["ledger"].lookup(struct.pack("<I", service_pid))
    return dict(zip(Counter, COUNTS.unpack(value) if value else COUNTS.unpack(bytes(COUNTS.size)), strict=True))


@contextmanager
def child(watched: Watched, work: Callable[[], None]) -> Iterator[int]:
    """Another process, watched as a service of its own before it does anything."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(writer)
            os.read(reader, 1)
            work()
        finally:
            os._exit(0)
    os.close(reader)
    watched.watch(pid)
    os.write(writer, b"x")
    try:
        yield pid
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


@contextmanager
def serving_child(watched: Watched, request_bytes: int) -> Iterator[tuple[int, socket.socket]]:
    """A service that answers each request of that length, and a connection to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            while connection.recv(request_bytes, socket.MSG_WAITALL):
                connection.sendall(OK)

        with child(watched, serve) as pid, socket.create_connection(listener.getsockname()) as client:
            yield pid, client


def ask(client: socket.socket, request: bytes, times: int) -> None:
    for _ in range(times):
        client.sendall(request)
        assert OK == client.recv(len(OK), socket.MSG_WAITALL)


def test_each_of_two_services_has_its_own_account(watched: Watched):
    before = counts_of(watched, os.getpid())[Counter.BEGAN]
    with serving_child(watched, len(LONG_GET)) as (server, client):
        ask(client, LONG_GET, 3)
        watched.until(lambda done: len(done) == 6)  # the client may have its answer before the server's write returns
        exchanges = [exchange.service_pid for exchange in watched.done]

        assert 3 == counts_of(watched, server)[Counter.BEGAN] == exchanges.count(server)
        assert 3 == counts_of(watched, os.getpid())[Counter.BEGAN] - before == exchanges.count(os.getpid())


def test_with_a_full_ring_every_account_balances_on_its_own(watched: Watched):
    """The ring holds 1 MiB: some 120 of these requests. Nobody reads it until all have been sent."""
    mine = counts_of(watched, os.getpid())
    host = {counter: watched.counter(counter) for counter in Counter}
    with serving_child(watched, len(LONG_GET)) as (server, client):
        ask(client, LONG_GET, 400)
        watched.collect()  # makes room
        ask(client, LONG_GET, 1)  # what tells of the losses before
    watched.until(lambda _: watched.assembler.open_count == 0)

    ledger = watched.assembler.ledger
    for pid, role, kernel_before in ((server, Role.SERVER, None), (os.getpid(), Role.CLIENT, mine)):
        now = counts_of(watched, pid)
        kernel = tuple(now[counter] - (kernel_before[counter] if kernel_before else 0) for counter in Counter)
        account = ledger.of(pid)
        account.kernel = kernel
        account.spans = sum(exchange.service_pid == pid for exchange in watched.exchanges(role))
        assert 401 == account.began
        assert 100 < account.losses["lost, ring full"]
        assert 401 == account.spans + sum(account.losses.values())
    total = ledger.total()
    for counter in (Counter.BEGAN, Counter.LOST_RING_FULL):
        assert watched.counter(counter) - host[counter] == total.kernel[counter], "the host's is the services' sum"


@pytest.mark.parametrize(
    ("first_bytes", "counter"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Counter.TLS),
        (b"\x16\x03\x01\x02\x00", Counter.TLS),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Counter.HTTP2),
    ],
    ids=["tls", "tls-record-header-alone", "http2"],
)
def test_a_connection_that_cannot_be_read_is_counted_once_for_its_service(
    watched: Watched, first_bytes: bytes, counter: Counter
):
    with serving_child(watched, len(first_bytes)) as (server, client):
        ask(client, first_bytes, 3)

        assert 1 == counts_of(watched, server)[counter]
        assert 0 == counts_of(watched, server)[Counter.BEGAN]


def test_http_2_is_counted_also_when_its_server_speaks_first(watched: Watched):
    """As servers do: they need not wait for the client's preface."""
    settings = b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x03\0\0\0\x64"

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            connection.sendall(settings)
            connection.recv(100)

        with child(watched, serve) as server, socket.create_connection(listener.getsockname()) as client:
            assert settings == client.recv(len(settings), socket.MSG_WAITALL)
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            client.recv(1)  # the server has read it once it has left

            assert 1 == counts_of(watched, server)[Counter.HTTP2]


def test_a_tls_record_in_the_middle_of_http_is_no_tls_connection(watched: Watched):
    with serving_child(watched, len(b"GET / HTTP/1.1\r\n\r\n")) as (server, client):
        ask(client, b"GET / HTTP/1.1\r\n\r\n", 1)
        ask(client, b"\x16\x03\x01 of another thing", 1)

        assert 0 == counts_of(watched, server)[Counter.TLS]


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=["ipv4", "ipv6", "unix"])
def older_wire(request: pytest.FixtureRequest, watched: Watched, tmp_path: Path) -> Iterator[Wire]:
    """A connection of this process from a time when nobody watched it; `the_agent_comes` ends that time."""
    watched.unwatch(os.getpid())
    made = Wire(request.param, tmp_path)
    yield made
    made.close()
    watched.watch(os.getpid())


def the_agent_comes(watched: Watched) -> None:
    watched.watch(os.getpid())


def test_a_request_that_began_before_the_agent_is_counted_once_when_it_is_answered(older_wire: Wire, watched: Watched):
    """At both ends; the head of the answer, the rest of it, and a second answer are one request and one."""
    before = counts_of(watched, os.getpid())
    older_wire.c(GET)
    the_agent_comes(watched)
    older_wire.s(OK[:-1])
    older_wire.s(OK[-1:])
    older_wire.c(GET)
    older_wire.s(OK)
    watched.until(lambda done: len(done) == 2)

    now = counts_of(watched, os.getpid())
    assert 4 == now[Counter.BEGAN] - before[Counter.BEGAN]
    assert 2 == now[Counter.OLDER] - before[Counter.OLDER]
    for role in (Role.SERVER, Role.CLIENT):
        assert [(b"GET", 200)] == [(found.method, found.status) for found in watched.exchanges(role)]


def test_once_a_connection_older_than_the_agent_is_known_every_method_is_seen(older_wire: Wire, watched: Watched):
    """PURGE could be the middle of anything; what answers it proves a request, and which side is the server."""
    before = counts_of(watched, os.getpid())
    older_wire.c(GET.replace(b"GET", b"PURGE"))
    the_agent_comes(watched)
    older_wire.s(OK)
    for _ in range(3):
        older_wire.c(GET.replace(b"GET", b"PURGE"))
        older_wire.s(OK)
    watched.until(lambda done: len(done) == 6)

    now = counts_of(watched, os.getpid())
    assert 8 == now[Counter.BEGAN] - before[Counter.BEGAN]
    assert 2 == now[Counter.OLDER] - before[Counter.OLDER]
    assert [b"PURGE"] * 6 == [found.method for found in watched.done]


def test_a_body_that_began_before_the_agent_is_no_request(older_wire: Wire, watched: Watched):
    """Nothing of it tells of a request; the next one is seen."""
    before = counts_of(watched, os.getpid())
    older_wire.c(GET)
    older_wire.s(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")
    the_agent_comes(watched)
    older_wire.s(b"0123456789")
    older_wire.c(GET)
    older_wire.s(OK)
    watched.until(lambda done: len(done) == 2)

    now = counts_of(watched, os.getpid())
    assert 2 == now[Counter.BEGAN] - before[Counter.BEGAN]
    assert 0 == now[Counter.OLDER] - before[Counter.OLDER]


def test_a_connection_that_found_no_room_is_not_taken_for_an_older_one(watched: Watched):
    """512 find room. Their requests are counted once, as lost for want of room; no answer counts them again."""
    before = counts_of(watched, os.getpid())
    with ExitStack() as ends:
        listener = ends.enter_context(socket.create_server(("127.0.0.1", 0), backlog=600))
        pairs = []
        for _ in range(300):
            client = ends.enter_context(socket.create_connection(listener.getsockname()))
            pairs.append((client, ends.enter_context(listener.accept()[0])))
        for client, server in pairs:
            client.sendall(GET)
            assert GET == server.recv(4096)
        for client, server in pairs[:100]:  # room again
            client.close()
            server.close()
        for client, server in pairs[100:]:
            server.sendall(OK)
            assert OK == client.recv(4096)

    now = counts_of(watched, os.getpid())
    assert 600 == now[Counter.BEGAN] - before[Counter.BEGAN]
    assert 88 <= now[Counter.LOST_CONNECTIONS_FULL] - before[Counter.LOST_CONNECTIONS_FULL]
    assert 0 == now[Counter.OLDER] - before[Counter.OLDER]


def test_calls_of_io_uring_are_counted_for_their_service(hooks: SocketHooks, watched: Watched):
    """By hooks that do not see what they move."""
    libc = ctypes.CDLL(None, use_errno=True)

    def work() -> None:
        ring = libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
        for _ in range(4):
            libc.syscall(IO_URING_ENTER, ring, 0, 0, 0, 0, 0)

    with child(watched, work) as pid:
        pass

    assert (0 if hooks.sees_every_call else 4) == counts_of(watched, pid)[Counter.IO_URING]


def test_32_bit_calls_are_counted_for_their_service(hooks: SocketHooks, watched: Watched, tmp_path: Path):
    """By hooks that do not read them."""
    source, binary = tmp_path / "old.c", tmp_path / "old"
    call = '__asm__ volatile("int $0x80" :: "a"(%d), "b"(0));'
    source.write_text(f"void _start(void) {{ for (int i = 0; i < 5; i++) {call % 20} {call % 1} }}")
    subprocess.run(["cc", "-m32", "-nostdlib", "-static", "-o", str(binary), str(source)], check=True)

    with child(watched, lambda: os.execv(binary, [str(binary)])) as pid:
        pass

    assert hooks.sees_every_call == (counts_of(watched, pid)[Counter.COMPAT_SYSCALLS] < 5)


@pytest.mark.compiles
def test_services_beyond_the_ledgers_room_are_counted_together(hooks: SocketHooks, tmp_path: Path):
    """Room for two: one is the shared entry, which the probe makes first, the other goes to who counts first."""
    tmp_path.chmod(0o700)
    flags = {"CPU_BITS": 4, "RING_PAGES": 256, "MAX_CONNECTIONS": 512, "MAX_SERVICES": 2}
    prepared = PreparedParts(hooks.backend, flags, cache_dir=tmp_path, parts=[Part.SOCKETS])
    with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
        watched = Watched(loaded, hooks)
        reading = LedgerWatch(loaded.maps["ledger"])
        try:
            with serving_child(watched, len(LONG_GET)) as (server, client):
                ask(client, LONG_GET, 3)
                # Who counts first: the server may have read before the client's write has returned.
                assert {0, 3} == {counts_of(watched, pid)[Counter.BEGAN] for pid in (os.getpid(), server)}
                assert 3 == counts_of(watched, SHARED)[Counter.BEGAN]
                assert 6 == watched.counter(Counter.BEGAN)
                frames = reading.read({os.getpid(): 1, server: 1}, 0)
                assert 3 == len(frames[0].rows)  # type: ignore[union-attr]
        finally:
            watched.close()


def test_an_entry_is_taken_in_one_step(watched: Watched):
    with serving_child(watched, len(LONG_GET)) as (server, client):
        ask(client, LONG_GET, 2)
        key = struct.pack("<I", server)
        taken = watched.maps["ledger"].take(key)

        assert taken is not None
        assert 2 == COUNTS.unpack(taken)[Counter.BEGAN]
        assert watched.maps["ledger"].take(key) is None
        ask(client, LONG_GET, 1)
        assert 1 == counts_of(watched, server)[Counter.BEGAN], "what comes late has an entry again"
