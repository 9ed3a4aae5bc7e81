"""What CPython's own contexts say: a call belongs to the request in whose context, or in a copy of it, it is made."""

import contextvars
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from socket import socket

import pytest

from otel_ebpf.probe.python_watch import TARGET_IS_PYTHON
from otel_ebpf.records.kinds import LinkEvidence
from tests.kernel.contexts import ContextsWatched
from tests.kernel.parents import OK, REQUEST, Parent, in_a_thread
from tests.kernel.scene import Scene

pytestmark = pytest.mark.kernel

CONTEXT, HANDLER = LinkEvidence.CONTEXT, LinkEvidence.HANDLER
INTERPRETER = struct.Struct("<QQIIIIQI4x")
PROVEN, REFUSED = 1, 2


def new_context() -> Context:
    """That belongs to nobody."""
    made: list[Context] = []
    in_a_thread(lambda: made.append(copy_context()))
    return made[0]


def test_a_call_belongs_to_the_request_of_its_context(scene: Scene) -> None:
    one, two, other = new_context(), new_context(), new_context()
    one.run(scene.receive, b"/one")
    two.run(scene.receive, b"/two")
    for context, name in ((two, b"/of-two"), (one, b"/of-one"), (other, b"/of-none")):
        context.run(scene.call, name)

    found = scene.parents(5)

    assert Parent("/one", CONTEXT) == found["/of-one"]
    assert Parent("/two", CONTEXT) == found["/of-two"]
    assert None is found["/of-none"]


def test_copies_stay_with_the_request_in_which_they_were_made(scene: Scene) -> None:
    """As tasks do; the context of a connection's reader goes on to the next request."""
    reader = new_context()
    wire = reader.run(scene.receive, b"/one")
    task = reader.run(copy_context)
    task_of_task = task.run(copy_context)
    reader.run(scene.answer, wire)
    reader.run(scene.receive, b"/two", wire)
    later = reader.run(copy_context)
    for context, name in ((task, b"/task"), (task_of_task, b"/task-of-task"), (later, b"/later"), (reader, b"/reader")):
        context.run(scene.call, name)

    found = scene.parents(6)

    assert [Parent(path, CONTEXT) for path in ("/one", "/one", "/two", "/two")] == [
        found[path] for path in ("/task", "/task-of-task", "/later", "/reader")
    ]


def test_a_context_that_is_run_in_another_thread(scene: Scene) -> None:
    """asyncio.to_thread"""
    reader = new_context()
    reader.run(scene.receive, b"/shop")
    copy = reader.run(copy_context)
    in_a_thread(lambda: copy.run(scene.call, b"/elsewhere"))

    assert Parent("/shop", CONTEXT) == scene.parents(2)["/elsewhere"]


def test_what_a_thread_works_on_goes_over_to_the_contexts_that_it_makes(scene: Scene) -> None:
    """asyncio.run in a view of a threaded server."""

    def serve() -> None:
        scene.receive(b"/shop")
        copy_context().run(scene.call, b"/in-context")

    in_a_thread(serve)

    assert Parent("/shop", CONTEXT) == scene.parents(2)["/in-context"]


def test_an_address_that_is_used_again_has_no_owner(scene: Scene) -> None:
    """Contexts that were freed and others at their places, made by all who make any."""
    reader = new_context()
    reader.run(scene.receive, b"/shop")
    places = set[int]()
    for _ in range(50):
        owned = [reader.run(copy_context) for _ in range(300)]
        places |= {id(context) for context in owned}
        del owned
    nobody = new_context()
    again: list[Context] = []
    kept: list[Context] = []  # so that each has a place of its own
    for make in (lambda: nobody.run(copy_context), Context, nobody.copy):
        made = [make() for _ in range(80)]  # what was freed is handed out first
        kept += made
        again += [context for context in made if id(context) in places][:12]
    for number, context in enumerate(again):
        context.run(scene.call, b"/again/%d" % number)

    found = scene.parents(1 + len(again))

    assert again, "no address was used again, and this shows nothing"
    assert {None} == {found[f"/again/{number}"] for number in range(len(again))}


def test_who_was_started_for_a_connection_works_on_its_newest_request(scene: Scene) -> None:
    """A task for each connection, and a reader that is not it: as asyncio's streams and aiohttp have it."""
    listener = scene.listener()
    accepting = new_context()
    client = socket()
    client.connect(listener.getsockname())
    server, _ = accepting.run(listener.accept)
    handler, reader = accepting.run(copy_context), accepting.run(copy_context)
    with pytest.raises(BlockingIOError):
        accepting.run(listener.accept)
    stranger = accepting.run(copy_context)
    outgoing = [scene.wire().client for _ in range(4)]  # made here: a handler that accepts would be another one's

    for number in range(2):
        in_a_thread(lambda: client.sendall(REQUEST % b"/%d" % number))  # noqa: B023 - it is called at once
        reader.run(server.recv, 65536)
        handler.run(outgoing.pop().sendall, REQUEST % b"/call/%d" % number)
        stranger.run(outgoing.pop().sendall, REQUEST % b"/stranger/%d" % number)
        server.sendall(OK)
        in_a_thread(lambda: client.recv(65536))

    found = scene.parents(6)
    client.close()
    server.close()

    assert Parent("/0", CONTEXT) == found["/call/0"]
    assert Parent("/1", HANDLER) == found["/call/1"]
    assert [None, None] == [found["/stranger/0"], found["/stranger/1"]]


def test_a_context_that_has_two_requests_in_hand_works_for_nobody(scene: Scene) -> None:
    """An event loop of its own: nor does what it starts, until that has read a request itself."""
    loop = new_context()
    wires = [loop.run(scene.receive, name) for name in (b"/one", b"/two")]
    loop.run(scene.call, b"/whose")
    started = loop.run(copy_context)
    started.run(scene.call, b"/started")
    for wire in wires:
        wire.server.sendall(OK)
    loop.run(scene.receive, b"/three")
    loop.run(scene.call, b"/later")
    started.run(scene.receive, b"/four")
    started.run(scene.call, b"/known")

    found = scene.parents(8)
    assert [None] * 3 == [found[path] for path in ("/whose", "/started", "/later")]
    assert Parent("/four", CONTEXT) == found["/known"]


def test_a_copy_of_the_process_has_contexts_of_its_own(scene: Scene) -> None:
    """At the same addresses."""
    reader = new_context()
    reader.run(scene.receive, b"/shop")
    child = os.fork()
    if not child:
        reader.run(scene.call, b"/copy")
        os._exit(0)
    os.waitpid(child, 0)

    assert None is scene.parents(2)["/copy"]


def test_a_context_variable_alone_makes_no_context_of_a_request(scene: Scene) -> None:
    """A thread that sets one has a context of its own, which is never entered."""
    variable = contextvars.ContextVar[int]("variable")

    def serve() -> None:
        for number in range(2):
            wire = scene.receive(b"/%d" % number)
            variable.set(number)
            copy_context()
            scene.call(b"/call/%d" % number)
            scene.answer(wire)

    in_a_thread(serve)

    found = scene.parents(4)
    assert [Parent(f"/{number}", LinkEvidence.THREAD) for number in range(2)] == [
        found[f"/call/{number}"] for number in range(2)
    ]


def test_a_layout_is_proven_by_the_first_context(scene: Scene, followed: ContextsWatched) -> None:
    new_context()

    assert PROVEN == state_of(followed)


def test_a_layout_that_is_not_known_is_found(scene: Scene, followed: ContextsWatched) -> None:
    key, before = known(followed)
    process, kind, storage_key, context, *_ = INTERPRETER.unpack(before)
    followed.maps["interpreters"].update(key, INTERPRETER.pack(process, kind, 9, 0, 0, 0, 0, 0))
    reader = new_context()
    for _ in range(10):
        reader.run(copy_context)
    reader.run(scene.receive, b"/shop")
    reader.run(scene.call, b"/call")

    assert (storage_key, context, PROVEN) == INTERPRETER.unpack(known(followed)[1])[2:5]
    assert Parent("/shop", CONTEXT) == scene.parents(2)["/call"]


def test_a_server_that_gives_each_request_a_thread_disproves_no_layout(scene: Scene, followed: ContextsWatched) -> None:
    """Whose only contexts are the first ones of threads, made while none is current: Flask's."""
    key, before = known(followed)
    process, kind, storage_key, context, _, _, *greenlets = INTERPRETER.unpack(before)
    followed.maps["interpreters"].update(key, INTERPRETER.pack(process, kind, storage_key, context, 0, 0, *greenlets))
    variable = contextvars.ContextVar[int]("variable")
    threads = 200

    def serve(number: int) -> None:
        if not number % 50:
            scene.receive(b"/%d" % number)
        variable.set(number)
        if not number % 50:
            scene.call(b"/call/%d" % number)

    for number in range(threads):
        in_a_thread(lambda: serve(number))  # noqa: B023 - it is called at once

    assert REFUSED != state_of(followed)
    assert [Parent(f"/{number}", LinkEvidence.THREAD) for number in range(0, threads, 50)] == [
        found for path, found in scene.parents(8).items() if "/call/" in path
    ]


def test_a_layout_that_is_never_right_says_nothing(scene: Scene, followed: ContextsWatched) -> None:
    """A build whose contexts are no such objects."""
    key, before = known(followed)
    process, kind, storage_key, context, *_ = INTERPRETER.unpack(before)
    followed.maps["interpreters"].update(key, INTERPRETER.pack(process, kind, storage_key, context, REFUSED, 0, 0, 0))

    def serve() -> None:
        scene.receive(b"/shop")
        scene.call(b"/call")

    in_a_thread(serve)
    followed.maps["interpreters"].update(key, before)

    assert None is scene.parents(2)["/call"]


def test_this_process_is_known_to_be_python(followed: ContextsWatched) -> None:
    assert TARGET_IS_PYTHON & followed.python.target_flags(os.getpid())
    assert [] == followed.python.troubles


def known(followed: ContextsWatched) -> tuple[bytes, bytes]:
    key = struct.pack("<I", os.getpid())
    value = followed.maps["interpreters"].lookup(key)
    assert value is not None
    return key, value


def state_of(followed: ContextsWatched) -> int:
    return int(INTERPRETER.unpack(known(followed)[1])[4])


def test_a_job_of_a_pool_belongs_to_whom_it_was_handed_in_by(scene: Scene) -> None:
    """Pools copy no context. Their threads are made in the first request, and live on."""
    readers = [new_context() for _ in range(3)]
    with ThreadPoolExecutor(2) as pool:
        for number, reader in enumerate(readers):
            reader.run(scene.receive, b"/%d" % number)
            reader.run(pool.submit, scene.call, b"/job/%d" % number).result()
        pool.submit(scene.call, b"/job/of-none").result()

    found = scene.parents(7)

    assert [Parent(f"/{number}", LinkEvidence.EXECUTOR) for number in range(3)] == [
        found[f"/job/{number}"] for number in range(3)
    ]
    assert None is found["/job/of-none"]
