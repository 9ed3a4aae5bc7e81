"""What every test client sends, and so what every server must be seen to have served.

In:   a prefix that makes the ids unique
Out:  Calls: the request and the answer that it asks for, both known before anything is sent
Owns: the table of requests; answers.py reads the same language on the servers' side

The target says what to answer: /ID/status/404/size/1000/framing/chunked/delay/300?query. Any server can do that without
state, so the truth of a test is the plan itself, and the client's own report confirms it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

WITHOUT_BODY = (204, 304)


@dataclass(frozen=True)
class Call:
    id: str
    method: str
    target: str
    request_body_bytes: int = 0
    request_chunked: bool = False
    status: int = 200
    response_body_bytes: int = 0
    delay_ms: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def make_call(
    call_id: str,
    method: str,
    status: int = 200,
    size: int = 0,
    *,
    sent: int = 0,
    request_chunked: bool = False,
    framing: str = "length",
    delay_ms: int = 0,
    query: str = "",
    headers: dict[str, str] | None = None,
) -> Call:
    target = f"/{call_id}/status/{status}/size/{size}/framing/{framing}/delay/{delay_ms}"
    target += "/sent/chunked" if request_chunked else ""
    has_body = method != "HEAD" and status not in WITHOUT_BODY
    return Call(
        id=call_id,
        method=method,
        target=f"{target}?{query}" if query else target,
        request_body_bytes=sent,
        request_chunked=request_chunked,
        status=status,
        response_body_bytes=size if has_body else 0,
        delay_ms=delay_ms,
        headers=headers or {},
    )


# (method, status, response body bytes, further arguments of make_call)
TABLE: list[tuple[str, int, int, dict[str, Any]]] = [
    ("GET", 200, 0, {}),
    ("GET", 200, 1, {}),
    ("GET", 200, 1000, {"query": "q=1&name=caf%C3%A9&empty="}),
    ("POST", 201, 20, {"sent": 1}),
    ("GET", 200, 16384, {}),
    ("HEAD", 200, 1000, {}),
    ("GET", 200, 65536, {}),
    ("POST", 200, 5, {"sent": 1000}),
    ("GET", 200, 1000, {"framing": "chunked"}),
    ("DELETE", 204, 0, {}),
    ("GET", 200, 200_000, {}),
    ("PUT", 204, 0, {"sent": 100}),
    ("GET", 304, 0, {}),
    ("GET", 200, 200_000, {"framing": "chunked"}),
    ("POST", 200, 10, {"sent": 200_000}),
    ("GET", 404, 120, {}),
    ("PATCH", 200, 44, {"sent": 33}),
    ("HEAD", 404, 120, {}),
    ("POST", 201, 0, {"sent": 5000, "request_chunked": True}),
    ("GET", 500, 300, {"framing": "chunked"}),
    ("OPTIONS", 204, 0, {}),
    ("GET", 200, 6500, {"delay_ms": 300}),
    ("PUT", 200, 50, {"sent": 70_000}),
    ("GET", 500, 300, {}),
    ("OPTIONS", 200, 0, {}),
    ("DELETE", 404, 20, {"query": "really=yes"}),
    ("POST", 200, 70_000, {"sent": 70_000, "request_chunked": True}),
    ("GET", 200, 1, {"framing": "chunked"}),
]
STATUSES = sorted({status for _, status, _, _ in TABLE})
SIZES = sorted({size for _, _, size, _ in TABLE})


def all_calls(prefix: str) -> list[Call]:
    return [
        make_call(f"{prefix}{number:03}", method, status, size, **more)
        for number, (method, status, size, more) in enumerate(TABLE)
    ]


def calls_without_body(prefix: str) -> list[Call]:
    """What any server answers whole, also one that does not read bodies."""
    return [call for call in all_calls(prefix) if call.request_body_bytes == 0]


def file_calls(prefix: str) -> list[Call]:
    """For servers of files: /SIZE.bin, with the id in the query because the path must name a file."""
    calls = []
    for number, size in enumerate(SIZES):
        for method in ("GET", "HEAD"):
            call_id = f"{prefix}{number:03}{method[0]}"
            seen = size if method == "GET" else 0
            calls.append(Call(call_id, method, f"/{size}.bin?id={call_id}", response_body_bytes=seen))
    return [*calls, Call(f"{prefix}404H", "HEAD", f"/absent?id={prefix}404H", status=404)]
