"""What all Python clients share: read the plan, wait for the word to start, send, print what happened.

In:   a plan file (see plan.py); one line on standard input: start
Out:  "ready", then one line of JSON: a list of results
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What one call gave: status, response body bytes, the request bytes that the server says it read (None: does not say)
Outcome = tuple[int, int, int | None]
Send = Callable[[dict[str, Any]], Outcome]


def request_body(call: dict[str, Any]) -> bytes:
    return b"y" * int(call["request_body_bytes"])


def in_pieces(body: bytes) -> Iterator[bytes]:
    """Two pieces of unlike length: a library that is given an iterator sends chunks."""
    cut = len(body) // 3
    yield body[:cut]
    yield body[cut:]


def received_bytes(header: str | None) -> int | None:
    return None if header is None else int(header)


def drive(make_send: Callable[[dict[str, Any]], Send]) -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    print("ready", flush=True)
    sys.stdin.readline()
    send = make_send(plan)
    results = []
    for call in plan["calls"]:
        start_unix_ns, start_monotonic_ns = time.time_ns(), time.monotonic_ns()
        status, size, received = send(call)
        results.append(
            {
                "id": call["id"],
                "method": call["method"],
                "target": call["target"],
                "status": status,
                "request_body_bytes": call["request_body_bytes"],
                "response_body_bytes": size,
                "received_bytes": received,
                "start_monotonic_ns": start_monotonic_ns,
                "end_monotonic_ns": time.monotonic_ns(),
                "start_unix_ns": start_unix_ns,
            }
        )
    print(json.dumps(results), flush=True)
