"""kill -9 under load and a new start: each life of the agent accounts for what it saw, and nothing is counted twice.

The ring is so small that much is lost, or else the ratio that the accounts tell could not be wrong.
"""

import os
import signal
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.end_to_end.accounts import Accounts, read_service_accounts
from tests.end_to_end.sink import SERVER, Sink, http_sink
from tests.end_to_end.stage import Stage
from tests.end_to_end.status import status_document
from tests.end_to_end.truth import belongs_to, target_of
from tests.services.checking_load import CheckingLoad, Place, checking_load, place_of
from tests.services.processes import is_alive, wait_until
from tests.services.servers import Running

RING = "16KiB"
PER_SECOND = 2500  # of each service
CONNECTIONS = 4
REQUESTS = 1000  # of each connection, in the first life
TOLERANCE = 0.01


def places(sink: Sink, server: Running, prefix: str) -> list[Place]:
    spans = sink.wait_for(0, belongs_to(prefix, SERVER), settle_s=0)
    found = [place_of(target_of(span), prefix) for span in spans if span.attributes["server.port"] == server.port]
    return [place for place in found if place is not None]


@pytest.mark.parametrize("victim", ["exporter", "probe"])
def test_each_life_of_the_agent_accounts_for_what_it_saw(
    victim: str, prefix: str, status_socket: str, stage: Stage
) -> None:
    """The truth is what the clients say: every answer of theirs was right, kills or no kills."""
    servers = [stage.server("nginx"), stage.server("node")]
    sinks = [stage.ends.enter_context(http_sink()) for _ in range(2)]
    settings = {
        "OTEL_EBPF_OPEN_PORT": ",".join(str(server.port) for server in servers),
        "OTEL_EBPF_RING_BYTES": RING,
        "OTEL_EBPF_STATUS_SOCKET": status_socket,
    }

    def load(ends: ExitStack, name: str, requests: int) -> list[CheckingLoad]:
        return [
            ends.enter_context(
                checking_load(
                    server, f"{prefix}{name}", connections=CONNECTIONS, per_second=PER_SECOND, requests=requests
                )
            )
            for server in servers
        ]

    with ExitStack() as ends:
        first = stage.agent(is_ended_by_test=True, sink=sinks[0], **settings)
        for loading in load(ends, "a", REQUESTS):
            assert [REQUESTS] * CONNECTIONS == loading.finish()
        told = wait_until(lambda: settled_services(status_socket), "the status tells of every request")
        exporter = first.exporter_pid
        under_way = load(ends, "b", 0)
        wait_until(lambda: any(places(sinks[0], server, f"{prefix}b") for server in servers), "the load is seen")
        os.kill(exporter if victim == "exporter" else first.probe_pid, signal.SIGKILL)
        first.wait_until_ended()
        wait_until(lambda: not is_alive(exporter), "the exporter has ended")

        before_start = [loading.answered_so_far() for loading in under_way]
        second = stage.agent(is_ended_by_test=True, sink=sinks[1], **settings)
        after_start = [loading.answered_so_far() for loading in under_way]
        wait_until(
            lambda: all(len(places(sinks[1], server, f"{prefix}b")) > 1000 for server in servers),
            "the second life sees the load",
        )
        answered = [sum(loading.finish()) for loading in under_way]
        second.assert_clean_stop()

    accounts = read_service_accounts(second.messages)
    # A request of each connection was on its way when the agent said that it watches: it may have begun before.
    most = [after - before for after, before in zip(answered, before_start, strict=True)]
    least = [after - before - CONNECTIONS for after, before in zip(answered, after_start, strict=True)]
    for server, between in zip(servers, zip(least, most, strict=True), strict=True):
        of_first = [places(sinks[0], server, f"{prefix}{name}") for name in "ab"]
        of_second = places(sinks[1], server, f"{prefix}b")
        assert [] == twice(of_first[0]) == twice(of_first[1] + of_second)
        began, spans = told[server.pid]["began"], told[server.pid]["spans"]
        assert (REQUESTS * CONNECTIONS, len(of_first[0])) == (began, spans)
        assert told[server.pid]["captured"] == pytest.approx(spans / began, abs=TOLERANCE)
        assert [] == unlike_truth(accounts[server.pid], of_second, *between)


def settled_services(status_socket: str) -> dict[int, dict[str, int]] | None:
    """By the pid in its name; once the account of each balances, with all that was sent."""
    services = {
        int(service["name"].rpartition("(pid ")[2].rstrip(")")): service
        for service in status_document(status_socket)["services"]
    }
    is_settled = all(
        service["began"] == REQUESTS * CONNECTIONS == service["spans"] + sum(service["losses"].values())
        for service in services.values()
    )
    return services if is_settled and services else None


def twice(found: list[Place]) -> list[Place]:
    return [place for place, count in Counter(found).items() if count > 1]


def unlike_truth(accounts: Accounts, spans: list[Place], least: int, most: int) -> list[str]:
    """How many requests began while the agent started is not known from outside; all others must be there, and no more."""
    found = []
    if accounts.began != accounts.spans + accounts.lost or accounts.spans != len(spans):
        found.append(f"{accounts} does not balance, or is not {len(spans)} spans")
    if not least <= accounts.began <= most:
        found.append(f"{accounts.began} began, in truth {least} to {most}")
    if not accounts.losses.get("lost, ring full"):
        found.append("nothing was lost: this shows nothing")
    if accounts.losses.get("older than the agent", 0) > CONNECTIONS:
        found.append(f"{accounts.losses} for {CONNECTIONS} connections older than the agent")
    return found
