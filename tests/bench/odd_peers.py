"""A client and a server in one process, and the kinds of traffic between them: `python -m tests.bench.odd_peers PORT`.

In:   lines on standard input: a kind, how many requests
Out:  an empty line once it listens, and once they have been answered
Owns: the connections, one for each kind

One thread moves all bytes, so that every call moves what the kind says. A watcher of the process sees both ends.
"""

import socket
import sys
from collections.abc import Callable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNK = b"3e8\r\n%b\r\n" % (b"y" * 1000)
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class Wire:
    def __init__(self, listener: socket.socket) -> None:
        self.client = socket.create_connection(listener.getsockname())
        self.server, _ = listener.accept()
        for end in (self.client, self.server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def c(self, *pieces: bytes) -> None:
        for piece in pieces:
            _move(self.client, self.server, piece)

    def s(self, *pieces: bytes) -> None:
        for piece in pieces:
            _move(self.server, self.client, piece)


def _move(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    sender.sendall(data)
    left = len(data)
    while left:
        left -= len(receiver.recv(left))


def get(more: int = 0) -> bytes:
    """With so many bytes of headers more, the empty line behind them."""
    padding = b"".join(b"X-Pad-%02d: %b\r\n" % (number, b"p" * 987) for number in range(more // 1000))
    return b"GET /bench HTTP/1.1\r\nHost: bench\r\n%b\r\n" % padding


def cut(data: bytes, count: int) -> list[bytes]:
    size = -(-len(data) // count)
    return [data[at : at + size] for at in range(0, len(data), size)]


def post(*body: bytes, chunked: bool = False) -> list[bytes]:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % sum(map(len, body))
    return [b"POST /bench HTTP/1.1\r\nHost: bench\r\n%b\r\n\r\n" % framing, *body]


def ask(request: list[bytes], response: list[bytes]) -> Callable[[Wire], int]:
    def act(wire: Wire) -> int:
        wire.c(*request)
        wire.s(*response)
        return 1

    return act


def pipelined(requests: list[bytes], responses: list[bytes], count: int = 10) -> Callable[[Wire], int]:
    def act(wire: Wire) -> int:
        wire.c(*requests)
        wire.s(*responses)
        return count

    return act


def impatient(wire: Wire) -> int:
    """The next request is sent while the answer before is on its way."""
    wire.c(get())
    for _ in range(9):
        wire.s(OK[:20])
        wire.c(get())
        wire.s(OK[20:])
    wire.s(OK)
    return 10


def interim(wire: Wire) -> int:
    head, body = post(b"x" * 100)
    wire.c(head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    wire.s(b"HTTP/1.1 100 Continue\r\n\r\n")
    wire.c(body)
    wire.s(OK)
    return 1


PLAIN = "plain"
KINDS: dict[str, Callable[[Wire], int]] = {
    PLAIN: ask([get()], [OK]),
    "body behind its head, each way": ask(
        post(b"x" * 1000), [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"y" * 1000]
    ),
    "100 Continue": interim,
    "request head in 4 pieces": ask(cut(get(), 4), [OK]),
    "request head byte by byte": ask(cut(get(), len(get())), [OK]),
    "response head in 4 pieces": ask([get()], cut(OK, 4)),
    "request head of 4 KB": ask([get(4000)], [OK]),
    "request head of 16 KB": ask([get(16_000)], [OK]),
    "request head of 60 KB": ask([get(60_000)], [OK]),
    "10 pipelined, answers in one call": pipelined([get() * 10], [OK * 10]),
    "10 pipelined, an answer a call": pipelined([get() * 10], [OK] * 10),
    "10 pipelined in 25 pieces": pipelined(cut(get() * 10, 25), cut(OK * 10, 25)),
    "requests sent before the answer is whole": impatient,
    "chunked response in one call": ask([get()], [CHUNKED_HEAD + CHUNK * 3 + LAST_CHUNK]),
    "chunked response, 10 chunks in 12 calls": ask([get()], [CHUNKED_HEAD, *[CHUNK] * 10, LAST_CHUNK]),
    "chunked request, 10 chunks in 12 calls": ask(post(*[CHUNK] * 10, LAST_CHUNK, chunked=True), [OK]),
}


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        print(flush=True)
        wires: dict[str, Wire] = {}
        for line in sys.stdin:
            kind, _, count = line.rstrip().rpartition(" ")
            wire = wires.get(kind) or wires.setdefault(kind, Wire(listener))
            left = int(count)
            while left > 0:
                left -= KINDS[kind](wire)
            print(flush=True)


if __name__ == "__main__":
    main()
