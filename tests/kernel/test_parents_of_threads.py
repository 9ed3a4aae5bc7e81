"""One thread works on one request: what it sends meanwhile is caused by that, and nothing else is."""

import os
import select
import subprocess
import sys

import pytest

from otel_ebpf.records.kinds import LinkEvidence
from tests.kernel.contexts import ContextsWatched
from tests.kernel.parents import OK, REQUEST, Parent, in_a_thread
from tests.kernel.scene import Scene
from tests.kernel.wire import Wire

pytestmark = pytest.mark.kernel

THREAD, PROCESS = LinkEvidence.THREAD, LinkEvidence.PROCESS
# A child that sends one request on a descriptor that it was given.
SENDER = "import os, sys; os.write(int(sys.argv[1]), sys.argv[2].encode())"


def test_a_call_belongs_to_the_request_that_its_thread_has_read(scene: Scene) -> None:
    def serve() -> None:
        scene.call(b"/before")
        wire = scene.receive(b"/shop")
        scene.call(b"/first")
        scene.call(b"/second")
        scene.answer(wire)
        scene.receive(b"/next", wire)
        scene.call(b"/third")

    in_a_thread(serve)

    assert {
        "/before": None,
        "/shop": None,
        "/first": Parent("/shop", THREAD),
        "/second": Parent("/shop", THREAD),
        "/next": None,
        "/third": Parent("/next", THREAD),
    } == scene.parents(6)


def test_a_thread_that_serves_one_connection_after_the_other(scene: Scene) -> None:
    """As pools do with connections that stay open: the one before has its answer."""

    def serve() -> None:
        for number in range(3):
            wire = scene.receive(b"/shop/%d" % number)
            scene.call(b"/call/%d" % number)
            wire.server.sendall(OK)

    in_a_thread(serve)

    found = scene.parents(6)
    assert [Parent(f"/shop/{number}", THREAD) for number in range(3)] == [
        found[f"/call/{number}"] for number in range(3)
    ]


def test_a_connection_that_goes_from_thread_to_thread(scene: Scene) -> None:
    """The first thread has another one's request by then, and the second thread the connection's next."""

    def serve() -> None:
        wire = scene.receive(b"/shop")
        scene.answer(wire)
        in_a_thread(lambda: scene.receive(b"/next", wire) and None)
        scene.receive(b"/other")
        scene.call(b"/call")

    in_a_thread(serve)

    assert Parent("/other", THREAD) == scene.parents(4)["/call"]


def test_two_requests_at_once_in_one_thread_cannot_be_told_apart(scene: Scene) -> None:
    """Such a thread is no longer believed to work on one request at a time."""

    def serve() -> None:
        wires = [scene.receive(b"/one"), scene.receive(b"/two")]
        scene.call(b"/whose")
        for wire in wires:
            wire.server.sendall(OK)
        scene.receive(b"/three")
        scene.call(b"/later")

    in_a_thread(serve)

    found = scene.parents(5)
    assert (None, None) == (found["/whose"], found["/later"])


@pytest.mark.parametrize("wait", ["epoll", "select"])
def test_a_thread_that_waits_for_events_may_go_on_with_anything(scene: Scene, wait: str) -> None:
    """An event loop that its runtime does not tell of."""

    def serve() -> None:
        wire = scene.receive(b"/shop")
        if wait == "epoll":
            with select.epoll() as events:
                events.poll(0)
        else:
            select.select([wire.server], [], [], 0)
        scene.call(b"/whose")

    in_a_thread(serve)

    assert None is scene.parents(2)["/whose"]


def test_a_thread_that_sleeps_goes_on_with_its_request(scene: Scene) -> None:
    """time.sleep of Python before 3.11 is a select() on nothing."""

    def serve() -> None:
        scene.receive(b"/shop")
        select.select([], [], [], 0)
        scene.call(b"/call")

    in_a_thread(serve)

    assert Parent("/shop", THREAD) == scene.parents(2)["/call"]


def test_another_thread_has_another_request_in_hand_or_none(scene: Scene) -> None:
    def serve() -> None:
        scene.receive(b"/shop")
        in_a_thread(lambda: scene.call(b"/elsewhere"))

    in_a_thread(serve)

    assert None is scene.parents(2)["/elsewhere"]


def test_a_connection_that_is_closed_has_nothing_in_hand(scene: Scene) -> None:
    def serve() -> None:
        scene.receive(b"/shop").server.close()
        scene.call(b"/after")

    in_a_thread(serve)

    assert None is scene.parents(2)["/after"]


def test_of_pipelined_requests_nothing_tells_which_one_is_worked_on(scene: Scene) -> None:
    """Not for as long as the connection lasts. Two heads in one piece are one beginning here: user space tells."""

    def serve() -> None:
        wire = scene.wire()
        scene.receive(b"/one", wire)
        scene.receive(b"/two", wire)
        scene.call(b"/whose")
        scene.answer(wire, 2)
        scene.receive(b"/three", wire)
        scene.call(b"/later")

    in_a_thread(serve)

    found = scene.parents(4)
    assert (None, None) == (found["/whose"], found["/later"])


def test_a_program_that_is_started_works_for_the_request(scene: Scene) -> None:
    def serve() -> None:
        wire = scene.receive(b"/shop")
        send_by_a_program(scene.wire(), "/child")
        wire.server.sendall(OK)
        send_by_a_program(scene.wire(), "/late-child")

    in_a_thread(serve)

    found = scene.parents(3)
    assert Parent("/shop", PROCESS) == found["/child"]
    assert Parent("/shop", PROCESS) == found["/late-child"]


def test_a_copy_of_the_process_may_be_a_worker_that_lives_on(scene: Scene) -> None:
    """fork without exec, as pools of processes do it."""

    def serve() -> None:
        scene.receive(b"/shop")
        wire = scene.wire()
        child = os.fork()
        if not child:
            wire.client.sendall(REQUEST % b"/copy")
            os._exit(0)
        os.waitpid(child, 0)

    in_a_thread(serve)

    assert None is scene.parents(2)["/copy"]


def test_another_runtime_may_have_any_number_of_requests_in_a_thread(scene: Scene, followed: ContextsWatched) -> None:
    """Go, Node, Java: what their threads work on, only they know."""
    followed.watch(os.getpid(), 0)

    def serve() -> None:
        scene.receive(b"/shop")
        scene.call(b"/whose")

    in_a_thread(serve)

    assert None is scene.parents(2)["/whose"]


def send_by_a_program(wire: Wire, path: str) -> None:
    descriptor = wire.client.fileno()
    command = [sys.executable, "-ISc", SENDER, str(descriptor), (REQUEST % path.encode()).decode()]
    subprocess.run(command, pass_fds=[descriptor], check=True)
