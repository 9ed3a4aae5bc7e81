"""People in the shop: look around, put something into the cart, order. `python -m examples.shop.visitors --port …`.

In:   where the shop is, plain and over TLS
Out:  at the end, one line of JSON: how many requests were made each way, and how many answers there were of each status
Owns: its threads and connections

Every second visitor comes over TLS. Each sends a `traceparent` with every request, as a browser with tracing would.
"""

import argparse
import http.client
import json
import random
import signal
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Iterator

VISITORS = 4
ITEMS = 42  # two more than there are
ANSWER_TIMEOUT_S = 10


def visits(visitor: str, randomness: random.Random) -> Iterator[tuple[str, str, object]]:
    """(method, path, document), for ever."""
    while True:
        yield "GET", "/items", None
        for _ in range(randomness.randint(1, 3)):
            item = randomness.randint(1, ITEMS)
            yield "GET", f"/items/{item}", None
            yield "POST", f"/cart/{visitor}", {"item": item}
        yield "GET", f"/cart/{visitor}", None
        yield "POST", "/orders", {"visitor": visitor}


class Visitor(threading.Thread):
    def __init__(
        self, number: int, connection: http.client.HTTPConnection, pause_s: float, gone: threading.Event
    ) -> None:
        super().__init__()
        self.name = f"{1000 + number}"
        self.randomness = random.Random(number)
        self.connection, self.pause_s, self.gone = connection, pause_s, gone
        self.statuses: Counter[str] = Counter()

    def run(self) -> None:
        for method, path, document in visits(self.name, self.randomness):
            if self.gone.wait(self.pause_s * self.randomness.uniform(0.5, 1.5)):
                break
            body = json.dumps(document) if document else None
            trace_id, span_id = self.randomness.randbytes(16).hex(), self.randomness.randbytes(8).hex()
            headers = {"traceparent": f"00-{trace_id}-{span_id}-01", "Content-Type": "application/json"}
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            answer.read()
            self.statuses[str(answer.status)] += 1
        self.connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--pause-s", type=float, default=0.15)
    options = parser.parse_args()
    trust = ssl.create_default_context(cafile=options.certificate)
    gone = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: gone.set())

    def connection(number: int) -> http.client.HTTPConnection:
        if number % 2:
            return http.client.HTTPSConnection("localhost", options.tls_port, timeout=ANSWER_TIMEOUT_S, context=trust)
        return http.client.HTTPConnection("127.0.0.1", options.port, timeout=ANSWER_TIMEOUT_S)

    visitors = [Visitor(number, connection(number), options.pause_s, gone) for number in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    plain, tls = (sum((visitor.statuses for visitor in visitors[first::2]), Counter()) for first in (0, 1))
    done = {"plain": plain.total(), "tls": tls.total(), "statuses": dict(sorted((plain + tls).items()))}
    sys.stdout.write(json.dumps(done) + "\n")


if __name__ == "__main__":
    main()
