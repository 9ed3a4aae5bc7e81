"""Many TLS connections in one event loop, each to its own peer: `python -m tests.services.clients.many_peers PLAN`.

The plan's "peers" are the addresses; its calls go to them in turn, a round for each of the peers. In a round all
requests are written, in an order of chance, before the first response is read: no order of calls tells which is whose.
"""

import asyncio
import json
import random
import re
from typing import Any

import uvloop

from tests.services.clients.driver import Start, now, read_plan, result_of, tls_context

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(plan: dict[str, Any]) -> list[Ends]:
    context = tls_context(plan)
    assert context is not None
    opening = [
        asyncio.open_connection(host, port, ssl=context, server_hostname="localhost") for host, port in plan["peers"]
    ]
    return list(await asyncio.gather(*opening))


def write(writer: asyncio.StreamWriter, call: dict[str, Any]) -> Start:
    start = now()
    writer.write(f"{call['method']} {call['target']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return start


async def read(ends: Ends, call: dict[str, Any], start: Start) -> dict[str, Any]:
    reader, writer = ends
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"(?i)content-length: (\d+)", head)
    assert length is not None
    size = len(await reader.readexactly(int(length[1])))
    peer = writer.get_extra_info("peername")
    own = writer.get_extra_info("sockname")
    outcome = int(head.split()[1]), size, None
    return result_of(call, start, outcome, peer_address=peer[0], peer_port=peer[1], own_port=own[1])


async def send_all(plan: dict[str, Any]) -> list[dict[str, Any]]:
    connections, calls, choose = await connect(plan), plan["calls"], random.Random(6)
    results: dict[str, dict[str, Any]] = {}
    for begin in range(0, len(calls), len(connections)):
        turns = list(zip(connections, calls[begin:], strict=False))
        choose.shuffle(turns)
        starts = [write(ends[1], call) for ends, call in turns]
        choose.shuffle(order := list(range(len(turns))))
        reading = [read(*turns[place], starts[place]) for place in order]
        for result in await asyncio.gather(*reading):
            results[result["id"]] = result
    return [results[call["id"]] for call in calls]


if __name__ == "__main__":
    plan = read_plan()
    loop = LOOPS[plan["loop"]]()
    print(json.dumps(loop.run_until_complete(send_all(plan))), flush=True)
