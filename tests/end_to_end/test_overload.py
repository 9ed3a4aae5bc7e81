"""Twice as many requests as the ring can take: the ledger stays exact, memory bounded, the services unharmed."""

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.end_to_end.accounts import read_accounts, read_service_accounts
from tests.end_to_end.agent import Agent
from tests.end_to_end.sink import SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.status import ask_status, numbers_of, status_document
from tests.end_to_end.test_load import answered
from tests.end_to_end.truth import belongs_to, target_of
from tests.services.checking_load import BODY_BYTES, checking_load, place_of
from tests.services.processes import end, wait_until
from tests.services.servers import Running, counting_nginx

RING = "32KiB"
FIRST_RATE, HIGHEST_RATE = 2000.0, 64_000.0
ROUND_SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "2"))  # by hand: a minute and more
MAY_GROW_BYTES = 24 << 20  # from one round to an equal one: the queue, 16 MiB, may have been empty in the first
AS_FAST_AS_THEY_GO = [8000, 2000, 2000, 400]  # requests to each service: a second or so


@dataclass
class Part:
    """One service with its load, a share of the whole."""

    server: Running
    log: Path
    share: float
    connections: int
    keep_alive: bool
    is_of_files: bool = False
    sent: int = 0  # while the agent runs
    sent_before: int = 0

    def served(self) -> int:
        """By the service's own account, once it has ended."""
        text = self.log.read_text()
        if "served " in text:
            return int(text.rpartition("served ")[2])
        return sum("GET /" in line for line in text.splitlines())


def parts_of(stage: Stage) -> list[Part]:
    """Connections that stay and connections for one request, three kinds of servers, four services."""
    nginx = [stage.ends.enter_context(counting_nginx(stage.new_folder(f"nginx-{name}"))) for name in "ab"]
    node, files = stage.server("node"), stage.server("http.server")
    return [
        Part(*nginx[0], share=0.5, connections=4, keep_alive=True),
        Part(*nginx[1], share=0.2, connections=2, keep_alive=False),
        Part(node, node.log, share=0.2, connections=3, keep_alive=True),
        Part(files, files.log, share=0.1, connections=2, keep_alive=False, is_of_files=True),
    ]


class Overload:
    def __init__(self, parts: list[Part], prefix: str, status_socket: str) -> None:
        self.parts = parts
        self.prefix = prefix
        self.status_socket = status_socket
        self.rounds = 0

    def run(self, per_second: float, seconds: float) -> tuple[int, int]:
        """How many requests gave spans and how many did not."""
        before = status_document(self.status_socket)["host"]
        sent_before = self._sent()
        self.send([round(per_second * part.share * seconds) for part in self.parts], per_second)
        host = self.wait_until_settled()
        spans = host["spans"] - before["spans"]
        return spans, self._sent() - sent_before - spans

    def send(self, requests: list[int], per_second: float = 0) -> float:
        """So many to each service, all at once, every answer checked; how many a second were answered."""
        self.rounds += 1
        with ExitStack() as ends:
            loads = []
            for number, (part, wanted) in enumerate(zip(self.parts, requests, strict=True)):
                of_each = round(wanted / part.connections)
                load = checking_load(
                    part.server,
                    f"{self.prefix}r{self.rounds}p{number}",
                    connections=part.connections,
                    per_second=per_second * part.share,
                    requests=of_each,
                    keep_alive=part.keep_alive,
                    is_of_files=part.is_of_files,
                )
                loads.append((ends.enter_context(load), [of_each] * part.connections))
                part.sent += of_each * part.connections
            for load, all_of_it in loads:
                assert all_of_it == load.finish()
        return sum(sum(answered) / load.seconds for load, answered in loads)

    def _sent(self) -> int:
        return sum(part.sent for part in self.parts)

    def wait_until_settled(self) -> dict[str, int]:
        """The kernel's counts are read once a second."""
        host: dict[str, int] = {}

        def is_settled() -> bool:
            host.update(status_document(self.status_socket)["host"])
            return host["began"] == self._sent() and not host["open"]

        try:
            wait_until(is_settled, "the accounts tell of every request")
        except AssertionError as error:
            error.add_note(f"{self._sent()} requests were sent; {host}")
            raise
        return host

    def twice_what_the_ring_takes(self) -> float:
        """Requests a second: found out by asking for more and more until a third is lost."""
        per_second, spans, lost = FIRST_RATE, 1, 0
        while lost < spans / 2 and per_second < HIGHEST_RATE:
            spans, lost = self.run(per_second, 1)
            per_second *= 2
        return 2.0 * spans


def memory_of(agent: Agent) -> dict[str, int]:
    return {
        "probe": psutil.Process(agent.probe_pid).memory_info().rss,
        "exporter": psutil.Process(agent.exporter_pid).memory_info().rss,
    }


def test_at_twice_what_the_ring_takes_every_request_is_a_span_or_a_counted_loss(
    prefix: str, status_socket: str, stage: Stage
) -> None:
    """The truth is what each service says that it served; its clients have checked every answer.

    Throughput without and with the agent is printed (`-s`), not judged.
    """
    parts = parts_of(stage)
    overload = Overload(parts, prefix, status_socket)
    alone = overload.send(AS_FAST_AS_THEY_GO)
    for part in parts:
        part.sent_before, part.sent = part.sent, 0
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=",".join(str(part.server.port) for part in parts),
        OTEL_EBPF_RING_BYTES=RING,
        OTEL_EBPF_STATUS_SOCKET=status_socket,
    )
    per_second = overload.twice_what_the_ring_takes()
    memory = [memory_of(agent)]
    shares = []
    for _ in range(2):
        spans, lost = overload.run(per_second, ROUND_SECONDS)
        shares.append(lost / (spans + lost))
        memory.append(memory_of(agent))
    beside_the_agent = overload.send(AS_FAST_AS_THEY_GO)
    overload.wait_until_settled()
    status = ask_status(status_socket).stdout
    agent.assert_clean_stop()
    for part in parts:
        end(part.server.process)
    print(f"\n{per_second:.0f} requests/s, of which were lost {shares}; memory in bytes {memory}")
    print(f"requests/s as fast as they go: {alone:.0f} without the agent, {beside_the_agent:.0f} with it")

    assert all(0 < share < 1 for share in shares), f"{per_second:.0f} requests/s should lose about half: {shares}"
    growth = {which: memory[2][which] - memory[1][which] for which in memory[0]}
    assert {} == {which: more for which, more in growth.items() if more > MAY_GROW_BYTES}
    spans_of = by_port(stage.sink.wait_for(0, belongs_to(prefix, SERVER), settle_s=0))
    accounts_of = read_service_accounts(agent.messages)
    for part in parts:
        accounts, spans_here = accounts_of[part.server.pid], spans_of[part.server.port]
        assert part.sent_before + part.sent == part.served()
        assert part.sent == accounts.began
        assert accounts.began == accounts.spans + accounts.lost, accounts.losses
        assert len(spans_here) == accounts.spans
        assert [] == wrong_spans(spans_here)
        shown = numbers_of(status, part.server.pid)
        assert (accounts.began, accounts.spans) == (shown["began"], shown["spans"])
        assert accounts.losses.items() <= shown.items()
    host = read_accounts(agent.messages)
    assert host.began == sum(part.sent for part in parts)
    assert host.began == host.spans + host.lost
    assert host.spans == host.exported


def by_port(spans: list[Span]) -> dict[int, list[Span]]:
    found: dict[int, list[Span]] = {}
    for span in spans:
        found.setdefault(span.attributes["server.port"], []).append(span)
    return found


def wrong_spans(spans: list[Span]) -> list[str]:
    """Numbers only: a failure must not print thousands of spans."""
    twice = [target for target, count in Counter(map(target_of, spans)).items() if count > 1]
    ids = len(spans) - len({span.span_id for span in spans})
    other = [target_of(span) for span in spans if answered(span) != (200, BODY_BYTES)]
    unasked = [target_of(span) for span in spans if place_of(target_of(span), r"t\w+") is None]
    found = {"targets twice": len(twice), "ids twice": ids, "other answers": len(other), "never sent": len(unasked)}
    return [f"{count} {what}" for what, count in found.items() if count]
