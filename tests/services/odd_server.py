"""A server that answers what it reads, call by call, and not always as HTTP: `python -m tests.services.odd_server PORT`.

In:   connections
Out:  for each call that reads something, the answer that the first word of ANSWERS in it has; else none
Owns: nothing

It reads no heads and no bodies: so a test decides by its calls what is where.
"""

import selectors
import socket
import sys

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
GARBAGE = b"SSH-2.0-odd\r\n"
ANSWERS = {b"/garbage": GARBAGE, b"/early": EARLY, b"/answered": OK}


def answer_to(data: bytes) -> bytes:
    return next((answer for word, answer in ANSWERS.items() if word in data), b"")


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listener:
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                end = key.fileobj
                assert isinstance(end, socket.socket)
                data = end.recv(1 << 16)
                if data:
                    end.sendall(answer_to(data))
                else:
                    selector.unregister(end)
                    end.close()


if __name__ == "__main__":
    main()
