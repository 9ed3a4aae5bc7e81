"""What all Python clients share: read the plan, wait for the word to start, send, print what happened.

In:   a plan file (see plan.py); one line on standard input: start
Out:  "ready", then one line of JSON: a list of results
"""

import json
import ssl
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


def tls_context(plan: dict[str, Any]) -> ssl.SSLContext | None:
    """None: plain text is spoken."""
    if not plan["authority"]:
        return None
    context = ssl.create_default_context(cafile=plan["authority"])
    if plan["tls_version"]:
        context.maximum_version = ssl.TLSVersion[plan["tls_version"].replace(".", "_")]
    return context


Start = tuple[int, int]  # of a call: wall clock, monotonic


def now() -> Start:
    return time.time_ns(), time.monotonic_ns()


def result_of(call: dict[str, Any], start: Start, outcome: Outcome, **more: object) -> dict[str, Any]:
    """Of a call that ends now."""
    status, size, received = outcome
    return {
        "id": call["id"],
        "method": call["method"],
        "target": call["target"],
        "status": status,
        "request_body_bytes": call["request_body_bytes"],
        "response_body_bytes": size,
        "received_bytes": received,
        "start_monotonic_ns": start[1],
        "end_monotonic_ns": time.monotonic_ns(),
        "start_unix_ns": start[0],
        **more,
    }


def read_plan() -> dict[str, Any]:
    """When the word to start has come."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    print("ready", flush=True)
    sys.stdin.readline()
    return plan


def drive(make_send: Callable[[dict[str, Any]], Send]) -> None:
    plan = read_plan()
    send = make_send(plan)
    results = []
    for call in plan["calls"]:
        start = now()
        results.append(result_of(call, start, send(call)))
    print(json.dumps(results), flush=True)
