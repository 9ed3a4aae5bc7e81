"""What misleads whoever guesses: with OTEL_EBPF_PARENTS=strict no call is said to belong to a request that did not cause it."""

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from tests.end_to_end.parentage import NOT_THERE, WARM_UP, Verdict, judge, parents_of
from tests.end_to_end.sink import CLIENT, SERVER, Sink, http_sink
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to
from tests.services.calling import ODD, ODD_TASKS, CallingService, calling_service, caused_by
from tests.services.processes import wait_until

pytestmark = pytest.mark.end_to_end

REQUESTS = int(os.environ.get("OTEL_EBPF_TEST_REQUESTS", "10"))  # of each kind
AT_ONCE = 20


def verdict_of(sink: Sink, prefix: str, caused: dict[str, str]) -> Verdict:
    """Once as many spans have come as there must be."""
    spans = sink.wait_for(len(caused) + len(set(caused.values())), belongs_to(prefix))
    noise = sink.wait_for(1, belongs_to("/noise/", CLIENT))
    return judge(parents_of(spans), caused, parents_of(noise))


def kinds_of(paths: list[str]) -> set[str]:
    return {path.split("/")[2] for path in paths}


def test_what_lives_on_works_for_nobody(prefix: str, stage: Stage) -> None:
    """A handler that goes on behind its answer while its connection has the next request; a worker that the first request
    has made; copies of the process; pools that are used again; contexts at addresses that others had."""
    service = stage.ends.enter_context(calling_service("odd", stage.new_folder("odd"), style=ODD))
    stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_PARENTS="strict")
    service.ask(f"warm-{prefix}", 1, 1)  # it has made the worker
    warm = service.ask(f"warmer-{prefix}", 5, AT_ONCE)
    stage.sink.wait_for(len(warm), belongs_to(f"warmer-{prefix}"), seconds=5)

    caused = service.ask(f"hot-{prefix}", REQUESTS, AT_ONCE)

    verdict = verdict_of(stage.sink, f"hot-{prefix}", caused)
    assert ({}, []) == (verdict.wrong, verdict.missing)
    assert {"after", "worker", "fork"} <= kinds_of(verdict.unknown)
    copies = [path for path in verdict.unknown if path.startswith("/out/fork/") and path.endswith("/0")]
    assert REQUESTS == len(copies)


@contextmanager
def a_request_held_open(service: CallingService) -> Iterator[None]:
    """That has made a task and a job which work for all."""

    def ask(path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        connection.request("GET", path)
        assert 200 == connection.getresponse().status
        connection.close()

    thread = threading.Thread(target=ask, args=("/hold",))
    thread.start()
    ask("/held")
    try:
        yield
    finally:
        ask("/let-go")
        thread.join()


def wait_until_tasks_are_known(service: CallingService, sink: Sink, prefix: str) -> None:
    rounds = count()

    def are_tasks_known() -> bool:
        name = f"warm{next(rounds)}-{prefix}"
        caused = service.ask(name, WARM_UP, AT_ONCE, ("sequence",))
        spans = sink.wait_for(len(caused) + WARM_UP, belongs_to(name), seconds=5)
        return judge(parents_of(spans), caused, {}).is_all_right

    wait_until(are_tasks_known, "tasks that are known to handle requests")


def test_what_an_open_request_has_made_works_for_nobody(prefix: str, stage: Stage) -> None:
    """Workers whose calls look like that request's as long as it is open. The task that handles a request is known by those
    that have answered others."""
    service = stage.ends.enter_context(calling_service("odd-tasks", stage.new_folder("odd-tasks"), style=ODD_TASKS))
    stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_PARENTS="strict")
    wait_until_tasks_are_known(service, stage.sink, prefix)

    with a_request_held_open(service):
        caused = service.ask(f"hot-{prefix}", REQUESTS, AT_ONCE)

    verdict = verdict_of(stage.sink, f"hot-{prefix}", caused)
    assert ({}, []) == (verdict.wrong, verdict.missing)
    assert {"gather", "executor", "worker", "job"} == kinds_of(verdict.unknown)
    assert sum(path.split("/")[2] in ("sequence", "churn") for path in caused) == verdict.right


def test_the_task_of_a_request_is_known_where_connections_share_a_context_and_speak_tls(
    prefix: str, stage: Stage
) -> None:
    """The first request of a connection may be read in a context that its handshake has made."""
    service = stage.ends.enter_context(calling_service("uvicorn-uvloop-tls", stage.new_folder("uvloop")))
    stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_PARENTS="strict")
    wait_until_tasks_are_known(service, stage.sink, prefix)

    caused = service.ask(f"hot-{prefix}", 3 * REQUESTS, AT_ONCE, ("sequence",))

    verdict = verdict_of(stage.sink, f"hot-{prefix}", caused)
    assert ({}, [], []) == (verdict.wrong, verdict.missing, verdict.unknown)


def test_of_requests_sent_without_waiting_none_is_guessed(prefix: str, stage: Stage) -> None:
    """Three at once on each connection, in one piece and in three."""
    service = stage.ends.enter_context(calling_service("uvicorn", stage.new_folder("uvicorn")))
    stage.agent(OTEL_EBPF_OPEN_PORT=service.port, OTEL_EBPF_PARENTS="strict")
    service.ask(f"warm-{prefix}", WARM_UP, AT_ONCE)
    names = [f"{kind}/hot-{prefix}{number}" for kind in ("sequence", "gather") for number in range(3 * REQUESTS)]
    for at in range(0, len(names), 3):
        heads = [f"GET /in/{name} HTTP/1.1\r\nHost: shop\r\n\r\n".encode() for name in names[at : at + 3]]
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in heads if at % 2 else [b"".join(heads)]:
                connection.sendall(piece)
            received = b""
            while received.count(b"HTTP/1.1 200") < 3:
                more = connection.recv(65536)
                assert more
                received += more

    verdict = verdict_of(stage.sink, f"hot-{prefix}", caused_by(names))
    assert ({}, []) == (verdict.wrong, verdict.missing)


@contextmanager
def traffic(service: CallingService, prefix: str) -> Iterator[dict[str, str]]:
    """That goes on; what it has caused is there at the end."""
    ends, caused, errors = threading.Event(), dict[str, str](), list[BaseException]()

    def work() -> None:
        number = 0
        while not ends.is_set():
            number += 1
            try:
                caused.update(service.ask(f"{prefix}{number}x", 2, AT_ONCE))
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield caused
    finally:
        ends.set()
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("style", ["uvicorn-uvloop", "gunicorn-gevent"])
def test_an_agent_that_comes_in_the_middle_or_again_guesses_nothing(style: str, prefix: str, stage: Stage) -> None:
    """Connections, contexts and greenlets are older than it; those of the second one had owners that it does not know."""
    service = stage.ends.enter_context(calling_service(style, stage.new_folder(style)))
    with http_sink() as first, http_sink() as second, traffic(service, f"hot-{prefix}") as caused:
        for sink in (first, second):
            agent = stage.agent(sink=sink, is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=service.port)
            wait_until(lambda: sink.span_count > 200, "spans")  # noqa: B023 - it is called at once
            agent.stop()

    for sink in (first, second):
        # A request that the agent did not see the end of, before it was ended itself, has no span.
        found = {path: parent for path, parent in parents_of(sink.spans).items() if parent != NOT_THERE}
        known = {path: parent for path, parent in caused.items() if path in found}
        noise = {path: parent for path, parent in found.items() if path.startswith("/noise/")}
        verdict = judge(found, known, noise)
        assert {} == verdict.wrong
        assert verdict.right
    assert SERVER in {span.kind for span in second.spans}
