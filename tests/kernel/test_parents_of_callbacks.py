"""What a Node service sends is caused by the request whose callback sends it, or by none that anybody knows."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.records.kinds import LinkEvidence
from tests.kernel.callbacks import CallbacksWatched
from tests.kernel.parents import Parent, calls_of, parents
from tests.kernel.probed import FORMS
from tests.services.calling import CallingService
from tests.services.calling_node import NODE_AWAITING, NODE_BY_NUMBERS, node_calling_service
from tests.services.processes import free_port, is_listening, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.compiles]

REQUESTS = int(os.environ.get("OTEL_EBPF_TEST_REQUESTS", "10"))  # of each kind
NODES = [name for name in os.environ.get("OTEL_EBPF_TEST_NODES", "").split(",") if name]  # these as well
AT_ONCE, BATCH = 40, 5  # of each kind, between two looks at the ring
WAYS = [
    pytest.param("", False, {}, id="kept"),
    pytest.param("", False, {"AGENT": "few"}, id="few"),
    *(
        pytest.param(node, speaks_tls, {"AGENT": agent}, id=f"{node}-{agent}-{speaks_tls}")
        for node in NODES
        for speaks_tls in (False, True)
        for agent in ("kept", "few", "fresh")
    ),
]


def callbacks_watched(artifact: Artifact, hooks: SocketHooks, mode: str) -> Iterator[CallbacksWatched]:
    watched = CallbacksWatched(artifact, hooks, FORMS[0], mode)
    watched.unwatch(os.getpid())
    yield watched
    watched.close()


@pytest.fixture(scope="module")
def callbacks(prepared: PreparedParts, hooks: SocketHooks) -> Iterator[CallbacksWatched]:
    yield from callbacks_watched(prepared, hooks, "ids")


@pytest.fixture(scope="module")
def promises(prepared: PreparedParts, hooks: SocketHooks) -> Iterator[CallbacksWatched]:
    yield from callbacks_watched(prepared, hooks, "promises")


def calls_while_hot(
    watched: CallbacksWatched, service: CallingService, caused: dict[str, str]
) -> dict[str, Parent | None]:
    """Those that are asked for now. All went well; `caused` has them, too, afterwards."""
    for number in range(0, REQUESTS, BATCH):
        caused |= service.ask(f"hot{number}-", BATCH, AT_ONCE)
        found = calls_of(watched, {path: parent for path, parent in caused.items() if "/hot" in path})

    watched.node.tick()
    assert ([], None) == (watched.node.troubles, service.process.poll())
    assert {} == wrong(watched, caused)
    return found


def wrong(watched: CallbacksWatched, caused: dict[str, str]) -> dict[str, Parent | None]:
    """Calls with another parent than they should have, and calls that nobody caused with any."""
    return {
        path: parent
        for path, parent in parents(watched.records).items()
        if parent is not None and parent != Parent(caused.get(path, "none"), LinkEvidence.CALLBACK)
    }


@pytest.mark.parametrize(("node", "speaks_tls", "variables"), WAYS)
def test_every_call_belongs_to_the_request_of_its_callback_or_to_none(
    callbacks: CallbacksWatched,
    node: str,
    speaks_tls: bool,
    variables: dict[str, str],
    tmp_path: Path,
    stack: ExitStack,
) -> None:
    """40 at once, with pauses of random lengths, on connections that stay open; and calls that nobody caused."""
    service = stack.enter_context(node_calling_service(tmp_path / "service", node, speaks_tls=speaks_tls, **variables))
    # Connections that are older than the probes; of TLS they are not read.
    caused = {} if speaks_tls else service.ask("early-", 2, AT_ONCE)
    callbacks.fresh()
    callbacks.follow(service.process.pid)

    found = calls_while_hot(callbacks, service, caused)

    known = {path.split("/")[2] for path, parent in found.items() if parent is not None}
    assert set() == ({*NODE_BY_NUMBERS} - known if variables.get("AGENT") != "few" else set())
    assert [path for path in parents(callbacks.records) if path.startswith("/noise/")]


@pytest.mark.parametrize(("node", "speaks_tls", "variables"), WAYS)
def test_what_is_awaited_belongs_to_the_request_that_awaits_it(
    promises: CallbacksWatched,
    node: str,
    speaks_tls: bool,
    variables: dict[str, str],
    tmp_path: Path,
    stack: ExitStack,
) -> None:
    """With young objects in so little memory that they are moved all the time. On a connection that is used for the first
    time by TLS it may be unknown; a call that nobody caused has no parent."""
    arguments = ("--max-semi-space-size=1",)
    service = stack.enter_context(
        node_calling_service(tmp_path / "service", node, arguments, speaks_tls=speaks_tls, **variables)
    )
    promises.fresh()
    promises.follow(service.process.pid)
    caused = service.ask("warm-", 2, AT_ONCE)

    found = calls_while_hot(promises, service, caused)

    awaited = [path for path in found if path.split("/")[2] in NODE_AWAITING]
    unknown = [path for path in awaited if found[path] is None]
    assert len(unknown) <= len(awaited) // 20, unknown


def test_by_tls_a_call_belongs_to_its_request_on_the_connection_that_is_made_for_it(
    callbacks: CallbacksWatched, tmp_path: Path, stack: ExitStack
) -> None:
    """The call that reads plain text names no descriptor, by which a request is found whose connection it came on; and
    what is called first waits until hands are shaken."""
    service = stack.enter_context(
        node_calling_service(tmp_path / "service", speaks_tls=True, AGENT="fresh"),
    )
    callbacks.fresh()
    callbacks.follow(service.process.pid)
    caused = dict[str, str]()

    def known_kinds() -> set[str]:
        caused.update(service.ask(f"hot{len(caused)}-", 2, 4, NODE_BY_NUMBERS))
        callbacks.collect()
        found = parents(callbacks.records)
        return {path.split("/")[2] for path in caused if found.get(path)}

    wait_until(lambda: {*NODE_BY_NUMBERS} == known_kinds(), "a call of each kind has a parent")
    assert {} == wrong(callbacks, caused)


def test_threads_of_one_process_do_not_share_their_numbers(
    callbacks: CallbacksWatched, tmp_path: Path, stack: ExitStack
) -> None:
    """Three workers beside the first thread, all asked at once: each counts from one."""
    ports = [free_port() for _ in range(3)]
    service = stack.enter_context(
        node_calling_service(tmp_path / "service", WORKERS=",".join(map(str, ports)), AGENT="fresh")
    )
    wait_until(lambda: all(is_listening(("127.0.0.1", port)) for port in ports), "its workers listen")
    callbacks.fresh()
    callbacks.follow(service.process.pid)

    with ThreadPoolExecutor(4) as together:
        asked = [
            together.submit(replace(service, port=port).ask, f"of{port}-", REQUESTS, 10, NODE_BY_NUMBERS)
            for port in (service.port, *ports)
        ]
    of_each = [calls.result() for calls in asked]
    caused = {path: parent for calls in of_each for path, parent in calls.items()}
    found = calls_of(callbacks, caused)

    assert {} == wrong(callbacks, caused)
    assert [True] * 4 == [any(found[path] for path in calls) for calls in of_each]
