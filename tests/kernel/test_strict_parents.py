"""With OTEL_EBPF_PARENTS=strict a call is linked only where nothing else can have made it: not by what a request has started."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from socket import socket

import pytest

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Outcome, Role
from otel_ebpf.exchanges.kinship import Parents
from otel_ebpf.records.kinds import Kind
from tests.kernel.parents import OK, REQUEST, in_a_thread
from tests.kernel.scene import Scene

pytestmark = pytest.mark.kernel

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS = 8  # RESPONDERS_ALIKE in bpf/limits.h


def new_context() -> Context:
    """That belongs to nobody."""
    made: list[Context] = []
    in_a_thread(lambda: made.append(copy_context()))
    return made[0]


def call(scene: Scene, path: str) -> None:
    """What runs now sends a request, and is answered."""
    wire = scene.wire()
    wire.client.sendall(REQUEST % path.encode())
    in_a_thread(lambda: wire.server.sendall(OK))
    wire.client.recv(65536)


def strict_parents(scene: Scene, count: int) -> dict[str, str | None]:
    """Of so many calls."""
    watched = scene.watched
    watched.until(lambda done: sum(exchange.role is Role.CLIENT for exchange in done) >= count)
    read = {
        (record.connection, record.position): record.payload.split(b" ", 2)[1].decode()
        for record in watched.records
        if record.kind == Kind.REQUEST
    }
    done = Assembler(parents=Parents.STRICT).feed_all(watched.records)
    return {
        exchange.target.decode(): exchange.link and read[exchange.link.parent.connection, exchange.link.parent.number]
        for exchange in done
        if exchange.role is Role.CLIENT and exchange.target.startswith(b"/call/")
    }


def read_behind(scene: Scene, requests: int) -> Context:
    """As uvicorn: the reader of a connection makes a task for each request, and a context for its end. What has read one
    request more, behind so many."""
    reader, wire = new_context(), scene.wire()
    for number in range(requests):
        reader.run(scene.receive, b"/usual/%d" % number, wire)
        task = reader.run(copy_context)
        reader.run(copy_context)
        task.run(scene.answer, wire)
    reader.run(scene.receive, b"/shop", wire)
    return reader


def test_a_worker_that_a_handler_has_started_is_nobodys(scene: Scene) -> None:
    """While the request that has started it is open. What handles that is known by what answers others."""
    reader = read_behind(scene, ANSWERS)
    task, _ = reader.run(copy_context), reader.run(copy_context)
    worker = task.run(copy_context)
    for context, name in ((task, "task"), (worker, "worker"), (reader, "reader"), (new_context(), "none")):
        context.run(call, scene, f"/call/{name}")

    assert {"/call/task": "/shop", "/call/worker": None, "/call/reader": "/shop", "/call/none": None} == strict_parents(
        scene, 4
    )


def test_a_worker_that_the_servers_own_code_has_started_is_nobodys(scene: Scene) -> None:
    """Its request is one for which the reader has made more than for others."""
    reader = read_behind(scene, ANSWERS)
    worker, task, _ = (reader.run(copy_context) for _ in range(3))
    worker.run(call, scene, "/call/worker")
    task.run(call, scene, "/call/task")

    assert {"/call/worker": None, "/call/task": None} == strict_parents(scene, 2)


def test_of_a_server_that_is_not_known_only_the_reader_is_believed(scene: Scene) -> None:
    reader = read_behind(scene, ANSWERS - 1)
    task, _ = reader.run(copy_context), reader.run(copy_context)
    task.run(call, scene, "/call/task")
    reader.run(call, scene, "/call/reader")

    assert {"/call/task": None, "/call/reader": "/shop"} == strict_parents(scene, 2)


def test_where_what_reads_answers_what_it_starts_may_be_a_worker(scene: Scene) -> None:
    """As trio's handlers."""
    handler, wire = new_context(), scene.wire()
    for number in range(ANSWERS):
        handler.run(scene.receive, b"/usual/%d" % number, wire)
        handler.run(copy_context)
        handler.run(scene.answer, wire)
    handler.run(scene.receive, b"/shop", wire)
    worker = handler.run(copy_context)
    worker.run(call, scene, "/call/worker")
    handler.run(call, scene, "/call/handler")

    assert {"/call/worker": None, "/call/handler": "/shop"} == strict_parents(scene, 2)


def test_a_task_that_works_in_another_thread_may_be_a_worker(scene: Scene) -> None:
    """It may call before the reader has made what it makes for each request."""
    reader = read_behind(scene, ANSWERS)
    worker, _ = reader.run(copy_context), reader.run(copy_context)
    in_a_thread(lambda: worker.run(call, scene, "/call/worker"))

    assert {"/call/worker": None} == strict_parents(scene, 1)


def test_what_was_made_for_a_connection_may_work_for_another_of_its_requests(scene: Scene) -> None:
    """And so may what that makes, though it answers as well: aiohttp, asyncio's streams. The first request is no other."""
    listener, accepting, client = scene.listener(), new_context(), socket()
    client.connect(listener.getsockname())
    server, _ = accepting.run(listener.accept)
    handler, reader = accepting.run(copy_context), accepting.run(copy_context)
    for number in range(ANSWERS + 1):
        in_a_thread(lambda: client.sendall(REQUEST % b"/shop"))
        reader.run(server.recv, 65536)
        task = handler.run(copy_context)
        if number in (0, ANSWERS):
            handler.run(call, scene, f"/call/handler/{number}")
            task.run(call, scene, f"/call/task/{number}")
        task.run(server.sendall, OK)
        in_a_thread(lambda: client.recv(65536))
    server.close()
    client.close()

    assert {f"/call/{who}/{number}": None for who in ("handler", "task") for number in (0, ANSWERS)} == strict_parents(
        scene, 4
    )


def test_a_job_of_a_pool_may_be_a_worker(scene: Scene) -> None:
    """Handed in under a request, and never to end."""

    def serve() -> None:
        scene.receive(b"/shop")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(call, scene, "/call/job").result()
        call(scene, "/call/thread")

    in_a_thread(serve)

    assert {"/call/job": None, "/call/thread": "/shop"} == strict_parents(scene, 2)


def test_a_copy_that_a_thread_has_made_may_be_a_worker(scene: Scene) -> None:
    def serve() -> None:
        wire = scene.wire()
        for number in range(ANSWERS + 1):
            scene.receive(b"/usual/%d" % number, wire)
            if number == ANSWERS:
                copy_context().run(call, scene, "/call/copy")
                call(scene, "/call/thread")
            scene.answer(wire)

    in_a_thread(serve)

    assert {"/call/copy": None, "/call/thread": f"/usual/{ANSWERS}"} == strict_parents(scene, 2)


@pytest.mark.parametrize("pieces", [[OK], [CHUNKED + b"2\r\nok\r\n0\r\n\r\n"], [CHUNKED, b"2\r\nok\r\n", b"0\r\n\r\n"]])
def test_a_response_is_followed_behind_the_look_at_what_begins_it(scene: Scene, pieces: list[bytes]) -> None:
    """Which is a program of its own, between the one that has seen its first bytes and those that follow heads and chunks."""
    wire = new_context().run(scene.receive, b"/shop")
    for piece in pieces:
        wire.server.sendall(piece)
    wire.client.recv(65536)
    scene.watched.until(lambda done: len(done) >= 2)

    found = {exchange.role: exchange for exchange in scene.watched.done}
    assert dict.fromkeys((Role.SERVER, Role.CLIENT), (200, 2, Outcome.COMPLETE)) == {
        role: (exchange.status, exchange.response_body_bytes, exchange.outcome) for role, exchange in found.items()
    }
