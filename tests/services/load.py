"""Load on a running server: wrk for throughput, one careful client for truth under load.

In:   where to send
Out:  what was answered
Owns: its processes and threads
"""

import http.client
import re
import subprocess
import threading
from dataclasses import dataclass, field

from tests.services.processes import wait_until
from tests.services.servers import Running, program

# include/net/tcp_states.h: ESTABLISHED, SYN_RECV, CLOSE_WAIT. In the other states the server has closed its socket.
HELD = {"01", "03", "08"}


def run_wrk(server: Running, target: str, *, seconds: int, connections: int = 8, threads: int = 1) -> float:
    """Requests per second, as wrk counts them; it leaves in the middle of some, which the server has seen to its end then."""
    url = f"{'https' if server.authority else 'http'}://{server.host}:{server.port}{target}"
    command = [program("wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    assert "Non-2xx" not in said, said
    found = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    assert found, said
    wait_until(lambda: not is_at_work(server), "the server is done with what wrk left behind")
    return float(found[1])


def is_at_work(server: Running) -> bool:
    """Whether it holds a connection; once it has closed the last one, it has logged what it did for it."""
    with open("/proc/net/tcp") as lines:
        next(lines)
        fields = [line.split() for line in lines]
    return any(int(local.partition(":")[2], 16) == server.port and state in HELD for _, local, _, state, *_ in fields)


@dataclass
class SteadyClient:
    """Asks one thing again and again over a kept connection, and counts what was not answered as it should be."""

    server: Running
    target: str
    pause_s: float = 0.0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "SteadyClient":
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def ask(self) -> None:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        try:
            while not self.stop.wait(self.pause_s):
                try:
                    connection.request("GET", self.target)
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))
                    connection.close()
                    continue
                if response.status == 200:
                    self.answered += 1
                else:
                    self.failures.append(f"status {response.status}")
        finally:
            connection.close()
