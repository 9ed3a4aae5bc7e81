"""How many calls of Node services are said to belong to the request that caused them: clients, lines of Node, modes.

`python -m tests.bench.right_node_parents --requests 300 --at-once 40 --mode promises --node 22 axios+tls http+cluster`

In:   clients as tests/services/calling_node_clients.js names them, with `+few` or `+fresh` connections, `+tls`,
      `+cluster` of three processes, `+workers`, three threads more, `+storage`, an AsyncLocalStorage, `+small`, little
      room for young objects, and collections all the time; by default all but the last
Out:  a table on standard output: right, unknown and wrong calls of each style; exit status 1 when one was wrong
Owns: the services and the agents that it starts

No span: a TLS connection that is older than the probes, as those of the calls that nobody caused are.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

from tests.end_to_end.agent import running_agent
from tests.end_to_end.parentage import WARM_UP, Verdict, judge, parents_of
from tests.end_to_end.sink import CLIENT, http_sink
from tests.end_to_end.truth import belongs_to
from tests.services.calling import CallingService
from tests.services.calling_node import (
    NODE_AWAITING,
    NODE_BY_NUMBERS,
    NODE_KINDS,
    NODE_OTHERS,
    node_calling_service,
)
from tests.services.node_packages import LINES, node_of, node_packages
from tests.services.processes import free_port, is_listening, wait_until

CLIENTS = ("http", "http+few", "http+fresh", "axios", "fetch", "undici-fetch", "undici-request", "undici-pool")
PROCESSES = ("http+cluster", "http+workers", "fetch+cluster", "fetch+workers")
EVERY_ONE = (*(client + tls for client in CLIENTS for tls in ("", "+tls")), *PROCESSES, "http+storage", "fetch+storage")
GROUPS = {"numbers": NODE_BY_NUMBERS, "awaiting": NODE_AWAITING, "others": NODE_OTHERS}
SMALL = ("--max-semi-space-size=1", "--expose-gc")
SHOWN = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--node", action="append", choices=LINES, help="may be given more than once")
    parser.add_argument("--mode", action="append", help="OTEL_EBPF_NODE_PARENTS; may be given more than once")
    parser.add_argument("--requests", type=int, default=300, help="of each style")
    parser.add_argument("--at-once", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=0, help="again and again, until so much time has passed")
    parser.add_argument("--style", action="append", choices=NODE_KINDS, help="may be given more than once")
    parser.add_argument("clients", nargs="*", help=", ".join(EVERY_ONE))
    arguments = parser.parse_args()
    wrong = 0
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="otel-ebpf-parents-")))
        os.chmod(folder, 0o755)
        for node in arguments.node or LINES:
            for mode in arguments.mode or ("ids", "promises"):
                for client in arguments.clients or EVERY_ONE:
                    print(f"node {node} {mode:9}{client}", flush=True)
                    verdict, caused, said = _verdict(folder / f"{node}-{mode}-{client}", node, mode, client, arguments)
                    _print(verdict, caused, said)
                    wrong += len(verdict.wrong)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


def _verdict(
    folder: Path, node: str, mode: str, client: str, arguments: argparse.Namespace
) -> tuple[Verdict, dict[str, str], list[str]]:
    """What was asked for, too; and what the agent has said of parents."""
    name, *how = client.split("+")
    ports = [free_port() for _ in range(3)] if "workers" in how else []
    variables = {
        "CLIENT": name,
        "NODE_PATH": str(node_packages()),
        "AGENT": next((kind for kind in how if kind in ("few", "fresh")), "kept"),
        "CLUSTER": "3" if "cluster" in how else "",
        "WORKERS": ",".join(map(str, ports)),
        "STORAGE": "yes" if "storage" in how else "",
    }
    with ExitStack() as ends:
        service = ends.enter_context(node_calling_service(folder, node_of(node), speaks_tls="tls" in how, **variables))
        wait_until(lambda: all(is_listening(("127.0.0.1", port)) for port in ports), "its workers listen")
        sink = ends.enter_context(http_sink())
        settings = {
            "OTEL_EBPF_OPEN_PORT": str(service.port),
            "OTEL_EBPF_NODE_PARENTS": mode,
            "OTEL_EBPF_CACHE_DIR": str(folder.parent / "cache"),
        }
        agent = ends.enter_context(running_agent(folder / "agent", sink, is_ended_by_test=True, **settings))
        places = [service, *(replace(service, port=port) for port in ports)]
        kinds = tuple(arguments.style or NODE_KINDS)
        warm = _ask(places, kinds, "warm-", WARM_UP, arguments.at_once)
        # What the first ones call by TLS may begin before their library is attached to.
        sink.wait_for(len(warm) + len(set(warm.values())), belongs_to("warm-"), seconds=5)
        verdict, all_caused, began_s = Verdict(), dict[str, str](), time.monotonic()
        for number in count():
            prefix = f"hot{number}-"
            caused = _ask(places, kinds, prefix, arguments.requests, arguments.at_once)
            wanted = len(caused) + len(set(caused.values()))
            spans = sink.wait_for(wanted, belongs_to(prefix), seconds=20)
            noise = sink.wait_for(1, belongs_to("/noise/", CLIENT))
            assert service.process.poll() is None, (folder / "calling").read_text()[-2000:]
            _add(verdict, judge(parents_of(spans), caused, parents_of(noise)))
            all_caused |= caused
            if time.monotonic() - began_s >= arguments.seconds:
                break
            sink.clear()
        agent.stop()
    return verdict, all_caused, [line for line in agent.messages.splitlines() if "no parent" in line]


def _add(verdict: Verdict, more: Verdict) -> None:
    verdict.right += more.right
    verdict.unknown += more.unknown
    verdict.wrong |= more.wrong
    verdict.missing += more.missing


def _ask(
    places: list[CallingService], kinds: tuple[str, ...], prefix: str, requests: int, at_once: int
) -> dict[str, str]:
    """All of these at once, each for its share."""
    share = len(places)
    with ThreadPoolExecutor(share) as together:
        asked = [
            together.submit(place.ask, f"{prefix}{number}-", -(-requests // share), -(-at_once // share), kinds)
            for number, place in enumerate(places)
        ]
    return {path: parent for calls in asked for path, parent in calls.result().items()}


def _styles(paths: Iterable[str]) -> Counter[str]:
    return Counter(path.split("/")[2] if path.startswith("/out/") else "noise" for path in paths)


def _print(verdict: Verdict, caused: dict[str, str], said: list[str]) -> None:
    found = _styles(caused)
    columns = [_styles(paths) for paths in (verdict.unknown, verdict.wrong, verdict.missing)]
    print(f"{'':10}{'style':12}{'right':>8}{'unknown':>9}{'wrong':>7}{'no span':>9}{'right':>9}")
    for group, kinds in GROUPS.items():
        kinds = tuple(kind for kind in kinds if found[kind])
        for kind in kinds:
            _row(kind, found[kind], [column[kind] for column in columns])
        sums = [sum(column[kind] for kind in kinds) for column in columns]
        _row(f"-- {group}", sum(found[kind] for kind in kinds), sums)
    for path, parent in list(verdict.wrong.items())[:SHOWN]:
        print(f"{'':10}wrong: {path} under {parent}")
    for line in said:
        print(f"{'':10}{line}")
    sys.stdout.flush()


def _row(name: str, calls: int, others: list[int]) -> None:
    unknown, wrong, missing = others
    right = calls - sum(others)
    print(f"{'':10}{name:12}{right:8}{unknown:9}{wrong:7}{missing:9}{right / max(1, calls - missing):9.1%}")


if __name__ == "__main__":
    sys.exit(main())
