"""For whose request nginx sends another one, by nginx's structs and its use of epoll, in this process."""

import ctypes
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.nginx_watch import TARGET_IS_NGINX, NginxWatch
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.records.kinds import LinkEvidence
from tests.kernel.parents import REQUEST, Parent, in_a_thread
from tests.kernel.scene import Scene
from tests.kernel.wire import Watched, Wire
from tests.services.c_programs import build_c

pytestmark = pytest.mark.kernel

HTTP, MAIL, STREAM = 0x50545448, 0x4C49414D, 0x4D525453
EPOLL_CTL_ADD, EPOLLIN = 1, 1
PID = struct.Struct("<I")
UPSTREAM = LinkEvidence.UPSTREAM
LIBC = ctypes.CDLL(None, use_errno=True)


class Request(ctypes.Structure):
    _fields_ = (("signature", ctypes.c_uint32), ("connection", ctypes.c_void_p))


class LogContext(ctypes.Structure):
    _fields_ = (("connection", ctypes.c_void_p), ("request", ctypes.c_void_p))


class Log(ctypes.Structure):
    _fields_ = (("before", ctypes.c_uint64 * 5), ("data", ctypes.c_void_p))


class Connection(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("events", ctypes.c_void_p * 2),
        ("descriptor", ctypes.c_int),
        ("between", ctypes.c_uint64 * 6),
        ("log", ctypes.c_void_p),
    )


class EpollEvent(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


class Nginx:
    """What a worker keeps in memory, and what it has the kernel keep."""

    def __init__(self) -> None:
        self.epoll = LIBC.epoll_create1(0)
        self._kept: list[ctypes.Structure] = []
        self.of_nobody = self._keep(Log())  # the process's own, of connections that wait for somebody to need them

    def _keep(self, made: ctypes.Structure) -> int:
        self._kept.append(made)
        return ctypes.addressof(made)

    def close_epoll(self) -> None:
        """And begin anew."""
        os.close(self.epoll)
        self.epoll = LIBC.epoll_create1(0)

    def wait_for(self, wire: Wire, *, own_bit: int = 0, descriptor: int | None = None) -> Connection:
        """Of an upstream connection; `descriptor`: another one than its own."""
        number = wire.client.fileno()
        connection = Connection(descriptor=number if descriptor is None else descriptor, log=self.of_nobody)
        event = EpollEvent(EPOLLIN, self._keep(connection) | own_bit)
        assert 0 == LIBC.epoll_ctl(self.epoll, EPOLL_CTL_ADD, number, ctypes.byref(event))
        return connection

    def log_of(self, client: Wire, signature: int = HTTP) -> int:
        """Of a client's connection with the request that it has in hand."""
        request = self.request_of(client, signature)
        return self._keep(Log(data=self._keep(LogContext(None, request))))

    def request_of(self, client: Wire, signature: int = HTTP) -> int:
        return self._keep(Request(signature, self._keep(Connection(descriptor=client.server.fileno()))))

    def log_of_stream(self) -> int:
        """Of a session that relays bytes, whatever they are."""
        session = (ctypes.c_uint64 * 2)(STREAM)
        return self._keep(Log(data=self._keep(session)))  # type: ignore[arg-type]

    def upstream(self, wire: Wire, client: Wire, **how: int) -> Connection:
        """One that is in use for what this client has asked."""
        connection = self.wait_for(wire, **how)
        self.use(connection, client)
        return connection

    def use(self, connection: Connection, client: Wire | None) -> None:
        """For what this client has asked; None: it is kept alive for anybody."""
        connection.data = self._keep(Request(7)) if client is None else self.request_of(client)
        connection.log = self.of_nobody if client is None else self.log_of(client)


@pytest.fixture
def scene(watched_programs: Watched, tmp_path: Path) -> Iterator[Scene]:
    """The programs of all tests, with another target."""
    watched_programs.fresh()
    watched_programs.maps["upstream_tallies"].delete(PID.pack(os.getpid()))
    watched_programs.watch(os.getpid(), TARGET_IS_NGINX)
    with ExitStack() as stack:
        yield Scene(watched_programs, tmp_path, stack)
    watched_programs.watch(os.getpid())


@pytest.fixture
def nginx() -> Iterator[Nginx]:
    made = Nginx()
    yield made
    os.close(made.epoll)


def send(wire: Wire, path: bytes) -> None:
    wire.client.sendall(REQUEST % path)


def answered(wire: Wire, path: bytes) -> None:
    """An upstream connection that has served, and is kept alive."""
    send(wire, path)
    in_a_thread(lambda: wire.server.recv(65536))
    in_a_thread(lambda: wire.server.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"))
    wire.client.recv(65536)


def parents_of(scene: Scene, *paths: str, received: int = 1) -> dict[str, Parent | None]:
    """Of these calls. What was received was sent by this process, too."""
    found = scene.parents(len(paths) + received)
    return {path: found[path] for path in paths}


@pytest.mark.parametrize("own_bit", [0, 1])
def test_a_call_belongs_to_the_request_for_which_its_connection_is_in_use(
    own_bit: int, scene: Scene, nginx: Nginx
) -> None:
    """One thread has three of them in hand; what it has read last says nothing."""
    clients = {path: scene.receive(path) for path in (b"/one", b"/two", b"/three")}
    upstreams = {path: scene.wire() for path in clients}
    for path in (b"/two", b"/one", b"/three"):
        nginx.upstream(upstreams[path], clients[path], own_bit=own_bit)
    for path in (b"/three", b"/two", b"/one"):
        send(upstreams[path], b"/of" + path)

    assert {f"/of/{name}": Parent(f"/{name}", UPSTREAM) for name in ("one", "two", "three")} == (
        parents_of(scene, "/of/one", "/of/two", "/of/three", received=3)
    )


def test_a_connection_that_is_kept_alive_belongs_to_whom_it_is_in_use_for(scene: Scene, nginx: Nginx) -> None:
    """Meanwhile to nobody."""
    first, second, wire = scene.receive(b"/first"), scene.receive(b"/second"), scene.wire()
    upstream = nginx.upstream(wire, first)
    answered(wire, b"/of-first")
    nginx.use(upstream, second)
    answered(wire, b"/of-second")
    nginx.use(upstream, None)
    send(wire, b"/of-nobody")

    assert {
        "/of-first": Parent("/first", UPSTREAM),
        "/of-second": Parent("/second", UPSTREAM),
        "/of-nobody": None,
    } == parents_of(scene, "/of-first", "/of-second", "/of-nobody", received=2)


def test_a_module_may_have_its_own_use_for_the_connection(scene: Scene, nginx: Nginx) -> None:
    """As Lua has: there, its log leads to the request."""
    client, wire = scene.receive(b"/script"), scene.wire()
    nginx.upstream(wire, client).data = nginx.of_nobody
    send(wire, b"/by-script")

    assert {"/by-script": Parent("/script", UPSTREAM)} == parents_of(scene, "/by-script")


def test_what_was_known_of_a_connection_is_asked_again(scene: Scene, nginx: Nginx) -> None:
    """Its memory is another connection's now: which one this socket has, epoll tells again."""
    first, second, wire, other = scene.receive(b"/first"), scene.receive(b"/second"), scene.wire(), scene.wire()
    former = nginx.upstream(wire, first)
    answered(wire, b"/of-first")
    former.descriptor = other.client.fileno()
    nginx.close_epoll()
    nginx.upstream(wire, second)
    send(wire, b"/of-second")

    assert {"/of-second": Parent("/second", UPSTREAM)} == parents_of(scene, "/of-second", received=3)


def test_a_second_attempt_belongs_to_the_same_request(scene: Scene, nginx: Nginx) -> None:
    client, dead, alive = scene.receive(b"/shop"), scene.wire(), scene.wire()
    for wire, path in ((dead, b"/tried"), (alive, b"/retried")):
        nginx.upstream(wire, client)
        send(wire, path)

    assert dict.fromkeys(("/tried", "/retried"), Parent("/shop", UPSTREAM)) == (parents_of(scene, "/tried", "/retried"))


def test_the_first_call_on_a_connection_that_is_older_than_the_agent_belongs_to_its_request(
    scene: Scene, nginx: Nginx
) -> None:
    scene.watched.unwatch(os.getpid())
    wire = scene.wire()
    scene.watched.watch(os.getpid(), TARGET_IS_NGINX)
    nginx.upstream(wire, scene.receive(b"/shop"))
    send(wire, b"/cart")

    assert {"/cart": Parent("/shop", UPSTREAM)} == parents_of(scene, "/cart")


def test_what_is_sent_behind_the_answer_belongs_to_what_was_answered(scene: Scene, nginx: Nginx) -> None:
    """As when a cache is refreshed: the connection takes no other request until that is through."""
    client, wire = scene.receive(b"/stale"), scene.wire()
    scene.answer(client)
    nginx.upstream(wire, client)
    send(wire, b"/refresh")

    assert {"/refresh": Parent("/stale", UPSTREAM)} == parents_of(scene, "/refresh")


def test_of_requests_sent_behind_one_another_none_is_known(scene: Scene, nginx: Nginx) -> None:
    """Which of them is worked on, the connection does not tell."""
    client, wire = scene.receive(b"/first"), scene.wire()
    scene.receive(b"/second", client)
    nginx.upstream(wire, client)
    send(wire, b"/whose")

    assert {"/whose": None} == parents_of(scene, "/whose", received=2)


def test_what_is_not_http_1_is_nobodys_parent(scene: Scene, nginx: Nginx) -> None:
    """Of HTTP/2 many requests share the connection."""
    client, wire = scene.wire(), scene.wire()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    in_a_thread(lambda: client.client.sendall(preface))
    assert preface == client.server.recv(65536)
    nginx.upstream(wire, client)
    send(wire, b"/whose")

    assert {"/whose": None} == parents_of(scene, "/whose", received=0)


def test_each_step_on_the_way_has_to_prove_itself(scene: Scene, nginx: Nginx) -> None:
    """Nobody waits for the socket; another file's descriptor; none at all; no log; sessions; a request that is none."""
    client = scene.receive(b"/shop")
    wires = {
        name: scene.wire()
        for name in ("alone", "other", "beyond", "no-log", "no-memory", "mail", "stream", "odd", "right")
    }
    nginx.upstream(wires["other"], client, descriptor=wires["alone"].client.fileno())
    nginx.upstream(wires["beyond"], client, descriptor=1 << 30)
    nginx.wait_for(wires["no-log"]).log = None
    nginx.wait_for(wires["no-memory"]).data = 1 << 40
    for name, log in (
        ("mail", nginx.log_of(client, MAIL)),
        ("stream", nginx.log_of_stream()),
        ("odd", nginx.log_of(client, 7)),
        ("right", nginx.log_of(client)),
    ):
        nginx.wait_for(wires[name]).log = log
    for name, wire in wires.items():
        send(wire, f"/{name}".encode())

    paths = [f"/{name}" for name in wires]
    assert dict.fromkeys(paths) | {"/right": Parent("/shop", UPSTREAM)} == parents_of(scene, *paths)


def test_another_program_is_not_asked(scene: Scene, nginx: Nginx) -> None:
    client, wire = scene.receive(b"/shop"), scene.wire()
    nginx.upstream(wire, client)
    scene.watched.watch(os.getpid())
    send(wire, b"/whose")

    assert {"/whose": None} == parents_of(scene, "/whose")


def test_a_build_that_keeps_its_requests_elsewhere_is_told(
    scene: Scene, nginx: Nginx, loaded_programs: Loaded, tmp_path: Path
) -> None:
    """Once nothing has been found where it should be, again and again; sessions of mail are there, and are no requests."""
    source = tmp_path / "nothing.c"
    source.write_text("int nothing;\n")
    path = shutil.copyfile(build_c(source, "-shared", "-fPIC"), tmp_path / "nginx")
    ctypes.CDLL(path)  # this process has mapped what has nginx's name
    client = scene.receive(b"/shop")

    def troubles(*signatures: int) -> list[str]:
        watch = NginxWatch(loaded_programs, Procfs(), is_on=True)
        watch.look_at(os.getpid())
        assert TARGET_IS_NGINX == watch.target_flags(os.getpid())
        scene.watched.maps["upstream_tallies"].delete(PID.pack(os.getpid()))
        for signature in signatures:
            nginx.wait_for(wire := scene.wire()).log = nginx.log_of(client, signature)
            send(wire, b"/sent")
        watch.tick()
        return watch.troubles

    assert [] == troubles(*[7] * 7)
    assert [] == troubles(MAIL, *[7] * 20)
    assert [] == troubles(*[7] * 20, HTTP)
    assert [f"calls of {tmp_path}/nginx have no parent: its requests are not where nginx has them"] == troubles(
        *[7] * 8
    )
