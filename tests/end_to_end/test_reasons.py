"""Why a request gave no span: each reason is counted where it happens and shown by `otel-ebpf status`, and all adds up."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.agent import Agent
from tests.end_to_end.stage import Stage
from tests.end_to_end.status import ask_status, numbers_of
from tests.services.odd_server import EARLY, GARBAGE, OK
from tests.services.processes import wait_until
from tests.services.servers import Running, odd_server

FULL = "lost, too many connections"


@pytest.fixture
def server(stage: Stage) -> Iterator[Running]:
    with odd_server(stage.new_folder("odd")) as running:
        yield running


class Client:
    """One connection."""

    def __init__(self, server: Running) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=20)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, data: bytes, answer: bytes) -> None:
        self.socket.sendall(data)
        left = answer
        while left:
            found = self.socket.recv(len(left))
            assert found, f"{left!r} is missing"
            assert left.startswith(found)
            left = left[len(found) :]

    def leave(self) -> None:
        """And wait until the server has seen it."""
        self.socket.shutdown(socket.SHUT_WR)
        assert b"" == self.socket.recv(1)


def not_http(client: Client) -> None:
    client.ask(b"GET /garbage HTTP/1.1\r\n\r\n", GARBAGE)


def half_a_head(client: Client) -> None:
    """Nobody knows what it asks for; with a target it would be a span."""
    client.socket.sendall(b"GET ")
    client.leave()


def rest_of_a_body(client: Client) -> None:
    """What is owed of the body looks like a request, and is none."""
    looks = b"GET /answered HTTP/1.1\r\n\r\n"
    client.ask(b"POST /early HTTP/1.1\r\nContent-Length: %d\r\n\r\nabc" % (3 + len(looks)), EARLY)
    client.ask(looks, OK)
    client.leave()


def hidden_head(client: Client) -> None:
    """Behind the rest of one body, before another one: the kernel copies only the end of such a call."""
    client.ask(b"POST /early HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", EARLY)
    head = b"POST /answered HTTP/1.1\r\nContent-Length: 3000\r\n\r\n"
    client.ask(b"defghi" + head + b"h" * 3000, OK)
    client.leave()


def unseen_end(client: Client) -> None:
    """An answer within a chunk, of which the kernel does not follow the size; then what looks like a request."""
    client.ask(b"PUT /early HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n000000ff\r\nabc", EARLY)
    client.ask(b"GET /answered HTTP/1.1\r\n\r\n", OK)
    client.leave()


# what happens, the reason, requests that began, spans
CASES: list[tuple[Callable[[Client], None], str, int, int]] = [
    (not_http, "not HTTP", 1, 0),
    (half_a_head, "head never complete", 1, 0),
    (rest_of_a_body, "not a request but the rest of a body", 2, 1),
    (hidden_head, "head in one call with a body", 2, 1),
    (unseen_end, "behind a body without a known end", 2, 1),
]


def wait_for_numbers(status_socket: str, server: Running, expected: dict[str, int]) -> None:
    """The kernel's counts are read once a second."""
    shown: dict[str, int] = {}

    def is_shown() -> bool:
        shown.clear()
        shown.update(numbers_of(ask_status(status_socket).stdout, server.pid))
        return expected.items() <= shown.items()

    try:
        wait_until(is_shown, f"the status shows {expected}", seconds=10)
    except AssertionError as error:
        error.add_note(f"it shows {shown}")
        raise


def assert_balances(agent: Agent, began: int, spans: int, losses: dict[str, int]) -> None:
    agent.assert_clean_stop()
    accounts = read_accounts(agent.messages)
    assert (began, spans, losses) == (accounts.began, accounts.spans, accounts.losses)
    assert began == spans + sum(losses.values())


def test_what_no_exchange_can_be_made_of_is_counted_by_its_reason(
    server: Running, status_socket: str, stage: Stage
) -> None:
    agent = stage.agent(is_ended_by_test=True, OTEL_EBPF_OPEN_PORT=server.port, OTEL_EBPF_STATUS_SOCKET=status_socket)
    for act, _, _, _ in CASES:
        with Client(server) as client:
            act(client)
    began, spans = (sum(case[place] for case in CASES) for place in (2, 3))
    losses = {reason: 1 for _, reason, _, _ in CASES}

    wait_for_numbers(status_socket, server, {"began": began, "spans": spans, **losses})
    assert_balances(agent, began, spans, losses)
    assert spans == len(stage.sink.spans)


def test_connections_that_find_no_room_are_counted_request_by_request(
    server: Running, status_socket: str, stage: Stage
) -> None:
    """Four find room. The others are seen and not followed, until one of those has gone."""
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_STATUS_SOCKET=status_socket,
        OTEL_EBPF_MAX_CONNECTIONS="4",
    )
    request = b"GET /answered HTTP/1.1\r\n\r\n"
    with ExitStack() as ends:
        clients = [ends.enter_context(Client(server)) for _ in range(10)]
        for client in clients:
            for _ in range(3):
                client.ask(request, OK)
        wait_for_numbers(status_socket, server, {"began": 30, "spans": 12, FULL: 18})
        clients[0].leave()
        with Client(server) as later:
            later.ask(request, OK)

    assert_balances(agent, 31, 13, {FULL: 18})


def test_heads_that_would_take_too_much_memory_are_evicted_and_counted(
    server: Running, status_socket: str, stage: Stage
) -> None:
    """700 heads of 60 KB that never end are 42 MB, 32 MiB are kept; of those the request line is known, and that they closed."""
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_STATUS_SOCKET=status_socket,
        OTEL_EBPF_RING_BYTES="64MiB",
    )
    count = 700
    with ExitStack() as ends:
        clients = [ends.enter_context(Client(server)) for _ in range(count)]
        for number, client in enumerate(clients):
            client.socket.sendall(b"GET /%d HTTP/1.1\r\nX-Pad: %b" % (number, b"p" * 60_000))
        wait_for_numbers(status_socket, server, {"began": count})

        def is_all_read() -> bool:
            numbers = numbers_of(ask_status(status_socket).stdout, server.pid)
            return numbers.get("evicted", 0) > 0 and count == numbers["evicted"] + numbers["open"]

        wait_until(is_all_read, "each request is evicted or open")
        for client in clients:
            client.leave()
    agent.assert_clean_stop()

    accounts = read_accounts(agent.messages)
    assert {"evicted"} == accounts.losses.keys()
    assert count == accounts.began == accounts.spans + accounts.lost
    assert accounts.spans == len(stage.sink.spans)
