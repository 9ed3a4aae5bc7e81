"""Whose request an upstream connection is asked for, by nginx's function with nginx's structs, in this process."""

import ctypes
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_ebpf.probe import bpf
from otel_ebpf.probe.function_finder import find_function
from otel_ebpf.probe.nginx_watch import NginxWatch
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import NGINX_PROGRAMS
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.uprobes import UprobeForm
from otel_ebpf.records.kinds import LinkEvidence
from tests.kernel.parents import REQUEST, Parent, in_a_thread
from tests.kernel.probed import FORMS_OF_INSTRUCTIONS, Probed
from tests.kernel.scene import Scene
from tests.kernel.test_verifier_budget import MOST_INSTRUCTIONS
from tests.kernel.wire import Wire
from tests.services.c_programs import build_c
from tests.services.processes import CHECKOUT
from tests.services.servers import program

pytestmark = pytest.mark.kernel

SOURCE = CHECKOUT / "tests" / "services" / "nginx_peer.c"
HTTP, MAIL = 0x50545448, 0x4C49414D
PID = struct.Struct("<I")
OK, BUSY, DONE = 0, -3, -4  # what the function is told: a fresh connection, none, one that was kept alive
UPSTREAM = LinkEvidence.UPSTREAM
Ask = Callable[..., None]


class NginxWatched(Probed):
    """This process, which has mapped what looks like nginx."""

    def __init__(self, prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm) -> None:
        super().__init__(prepared, hooks, form, NGINX_PROGRAMS)
        self.nginx = self.with_watch(NginxWatch)


def nginx(folder: Path, *flags: str) -> ctypes.CDLL:
    library = folder / "nginx"
    shutil.copyfile(build_c(SOURCE, "-shared", "-fPIC", *flags), library)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module", params=FORMS_OF_INSTRUCTIONS, ids=lambda form: form.name.lower())
def seen_by(request: pytest.FixtureRequest, prepared: PreparedParts, hooks: SocketHooks) -> Iterator[NginxWatched]:
    watched = NginxWatched(prepared, hooks, request.param)
    yield watched
    watched.close()


@pytest.fixture(scope="module")
def library(seen_by: NginxWatched, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    made = nginx(tmp_path_factory.mktemp("nginx"), "-fstack-protector-strong")
    seen_by.look()
    assert [] == seen_by.nginx.troubles
    return made


@pytest.fixture
def scene(seen_by: NginxWatched, tmp_path: Path) -> Iterator[Scene]:
    seen_by.fresh()
    with ExitStack() as stack:
        yield Scene(seen_by, tmp_path, stack)


@pytest.fixture
def ask(library: ctypes.CDLL) -> Ask:
    return asking(library)


def asking(library: ctypes.CDLL) -> Ask:
    def ask(upstream: Wire, client: Wire, signature: int = HTTP, result: int = OK) -> None:
        library.ask(upstream.client.fileno(), client.server.fileno(), signature, ctypes.c_ssize_t(result))

    return ask


def parents_of(scene: Scene, *paths: str, received: int = 1) -> dict[str, Parent | None]:
    """Of these calls. What was received was sent by this process, too."""
    found = scene.parents(len(paths) + received)
    return {path: found[path] for path in paths}


def answered(scene: Scene, upstream: Wire, request: bytes) -> None:
    """An upstream connection that has served, and is kept alive."""
    upstream.client.sendall(REQUEST % request)
    in_a_thread(lambda: upstream.server.recv(65536))
    in_a_thread(lambda: upstream.server.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"))
    upstream.client.recv(65536)


def test_a_call_belongs_to_the_request_for_which_its_connection_was_asked(scene: Scene, ask: Ask) -> None:
    """One thread has three of them in hand; what it has read last says nothing."""
    clients = {path: scene.receive(path) for path in (b"/one", b"/two", b"/three")}
    upstreams = {path: scene.wire() for path in clients}
    for path in (b"/two", b"/one", b"/three"):
        ask(upstreams[path], clients[path])
    for path in (b"/three", b"/two", b"/one"):
        upstreams[path].client.sendall(REQUEST % (b"/of" + path))

    assert {f"/of/{name}": Parent(f"/{name}", UPSTREAM) for name in ("one", "two", "three")} == (
        parents_of(scene, "/of/one", "/of/two", "/of/three", received=3)
    )


def test_a_connection_that_was_kept_alive_belongs_to_whoever_asked_last(scene: Scene, ask: Ask) -> None:
    """And what is sent without anybody asking belongs to nobody: it is for the next request alone."""
    first, second, upstream = scene.receive(b"/first"), scene.receive(b"/second"), scene.wire()
    ask(upstream, first)
    answered(scene, upstream, b"/of-first")
    ask(upstream, second, result=DONE)
    answered(scene, upstream, b"/of-second")
    upstream.client.sendall(REQUEST % b"/of-nobody")

    assert {
        "/of-first": Parent("/first", UPSTREAM),
        "/of-second": Parent("/second", UPSTREAM),
        "/of-nobody": None,
    } == parents_of(scene, "/of-first", "/of-second", "/of-nobody", received=2)


def test_a_second_attempt_belongs_to_the_same_request(scene: Scene, ask: Ask) -> None:
    client, dead, alive = scene.receive(b"/shop"), scene.wire(), scene.wire()
    for upstream, path in ((dead, b"/tried"), (alive, b"/retried")):
        ask(upstream, client)
        upstream.client.sendall(REQUEST % path)

    assert dict.fromkeys(("/tried", "/retried"), Parent("/shop", UPSTREAM)) == (parents_of(scene, "/tried", "/retried"))


def test_a_request_that_came_behind_the_one_that_asked_has_not_asked(scene: Scene, ask: Ask) -> None:
    """The client has gone on before anything was sent."""
    client, upstream = scene.receive(b"/before"), scene.wire()
    ask(upstream, client)
    scene.answer(client)
    scene.receive(b"/behind", client)
    upstream.client.sendall(REQUEST % b"/late")

    assert {"/late": None} == parents_of(scene, "/late", received=2)


def test_of_requests_sent_behind_one_another_none_has_asked(scene: Scene, ask: Ask) -> None:
    """Which of them is worked on, the connection does not tell."""
    client, upstream = scene.receive(b"/first"), scene.wire()
    scene.receive(b"/second", client)
    ask(upstream, client)
    upstream.client.sendall(REQUEST % b"/whose")

    assert {"/whose": None} == parents_of(scene, "/whose")


def test_what_is_not_http_1_asks_for_nobody(scene: Scene, ask: Ask) -> None:
    """Of HTTP/2 many requests share the connection."""
    client, upstream = scene.wire(), scene.wire()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    in_a_thread(lambda: client.client.sendall(preface))
    assert preface == client.server.recv(65536)
    ask(upstream, client)
    upstream.client.sendall(REQUEST % b"/whose")

    assert {"/whose": None} == parents_of(scene, "/whose", received=0)


def test_where_no_connection_could_be_had_nothing_is_asked(scene: Scene, ask: Ask) -> None:
    client, upstream = scene.receive(b"/shop"), scene.wire()
    ask(upstream, client, result=BUSY)
    upstream.client.sendall(REQUEST % b"/by-itself")

    assert {"/by-itself": None} == parents_of(scene, "/by-itself")


@pytest.mark.parametrize(
    "flags", [("-DWITHOUT_TLS",), ("-DWITHOUT_TLS", "-fstack-protector-strong"), ("-fno-stack-protector",), ("-O0",)]
)
def test_other_builds_are_read_as_well(flags: tuple[str, ...], scene: Scene, tmp_path: Path) -> None:
    ask = asking(nginx(tmp_path, *flags))
    watched = scene.watched
    assert isinstance(watched, NginxWatched)
    watched.look()
    assert not [trouble for trouble in watched.nginx.troubles if str(tmp_path) in trouble]
    client, kept, fresh = scene.receive(b"/shop"), scene.wire(), scene.wire()
    for upstream, path, result in ((kept, b"/kept", DONE), (fresh, b"/fresh", OK)):
        ask(upstream, client, result=result)
        upstream.client.sendall(REQUEST % path)

    assert dict.fromkeys(("/kept", "/fresh"), Parent("/shop", UPSTREAM)) == parents_of(scene, "/kept", "/fresh")


def test_a_build_that_has_forgotten_at_the_end_what_it_was_given_is_probed_where_it_begins_as_well(
    scene: Scene, tmp_path: Path
) -> None:
    """The register that should hold it holds something else: nothing is found by that, again and again."""
    ask = asking(nginx(tmp_path, "-fstack-protector-strong", "-DFORGETS_WHAT_IT_WAS_GIVEN"))
    watched = scene.watched
    assert isinstance(watched, NginxWatched)
    watched.look()
    watched.maps["upstream_tallies"].delete(PID.pack(os.getpid()))
    client = scene.receive(b"/shop")
    for path in (b"/before", b"/behind"):
        for _ in range(8):
            ask(upstream := scene.wire(), client)
        upstream.client.sendall(REQUEST % path)
        watched.nginx.tick()
        watched.look()

    assert {"/before": None, "/behind": Parent("/shop", UPSTREAM)} == parents_of(scene, "/before", "/behind")


def test_a_build_that_keeps_its_requests_elsewhere_is_told(scene: Scene, tmp_path: Path) -> None:
    """Once nothing has been found where it should be, again and again; sessions of mail are there, and are no requests."""
    ask = asking(nginx(tmp_path, "-fstack-protector-strong"))
    watched = scene.watched
    assert isinstance(watched, NginxWatched)
    watched.look()
    client = scene.receive(b"/shop")

    def troubles(*signatures: int) -> list[str]:
        watched.maps["upstream_tallies"].delete(PID.pack(os.getpid()))
        for signature in signatures:
            ask(scene.wire(), client, signature)
        watched.nginx.tick()
        watched.look()
        return [trouble for trouble in watched.nginx.troubles if str(tmp_path) in trouble]

    assert [] == troubles(*[7] * 7)
    assert [] == troubles(MAIL, *[7] * 20)
    assert [] == troubles(*[7] * 20, HTTP)
    ask(upstream := scene.wire(), client, 7)
    upstream.client.sendall(REQUEST % b"/whose")
    assert {"/whose": None} == parents_of(scene, "/whose")
    assert [] == troubles(*[7] * 8), "it is probed where it begins, first"
    assert [f"calls of {tmp_path}/nginx have no parent: its requests are not where nginx has them"] == troubles(
        *[7] * 8
    )


def test_nginx_itself_is_probed_where_it_costs_little() -> None:
    """By one instruction that the kernel emulates, where a register holds what is wanted."""
    with open(program("nginx"), "rb") as file:
        places = find_function(file, "ngx_event_connect_peer", with_argument=True)

    assert places is not None
    (end,) = places.ends
    assert end.is_emulated
    assert end.argument is not None


def test_its_programs_leave_older_verifiers_their_room(seen_by: NginxWatched) -> None:
    names = [row.function for row in NGINX_PROGRAMS]
    verified = [bpf.program_info(seen_by.loaded.programs[name]).verified_instructions for name in names]

    assert set(verified) == {None} or all(0 < (count or 0) < MOST_INSTRUCTIONS for count in verified), verified
