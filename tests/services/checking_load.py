"""Load whose every answer is checked and whose every request has a name: checking_client.c, driven.

In:   a server, how many connections and requests, how fast
Out:  how many requests of each connection were answered as they should be; AssertionError when one was not
Owns: the client's process
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.c_programs import build_c
from tests.services.processes import end
from tests.services.servers import Running

SOURCE = Path(__file__).with_name("checking_client.c")
BODY_BYTES = 1000
Place = tuple[int, int]  # of a request: its connection, its number there


class CheckingLoad:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seconds = 0.0  # that it took, once it is over

    def answered_so_far(self) -> int:
        """Of load that goes on until `finish`, on all connections."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return sum(json.loads(self._process.stdout.readline())["answered"])

    def finish(self) -> list[int]:
        """Ends load that was to go on, waits for the other kind; every answer was right."""
        said, _ = self._process.communicate(timeout=120)
        assert 0 == self._process.returncode, said
        report = json.loads(said)
        assert [] == report["failures"]
        self.seconds = report["seconds"]
        return [int(count) for count in report["answered"]]


@contextmanager
def checking_load(
    server: Running,
    prefix: str,
    *,
    connections: int,
    per_second: float,
    requests: int = 0,
    keep_alive: bool = True,
    is_of_files: bool = False,
) -> Iterator[CheckingLoad]:
    """`requests` of each connection, 0: until `finish`; `per_second` of all together, 0: as fast as they are answered."""
    before, after = f"/{prefix}-", f"/status/200/size/{BODY_BYTES}/framing/length/delay/0"
    if is_of_files:
        before, after = f"/{BODY_BYTES}.bin?id={prefix}-", ""
    how = [str(connections), str(requests), str(per_second), "keep" if keep_alive else "fresh"]
    process = subprocess.Popen(
        [str(build_c(SOURCE, "-pthread")), str(server.port), before, after, *how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield CheckingLoad(process)
    finally:
        end(process)  # type: ignore[arg-type]


def place_of(target: str, prefix: str) -> Place | None:
    """Which request of the load this is; None when it is none of it."""
    found = re.search(rf"{prefix}-(\d+)-(\d+)\b", target)
    return None if found is None else (int(found[1]), int(found[2]))
