"""Long runs of the whole agent at a steady rate: with a collector that takes everything, and with one that is away.

In:   how long, at which rate
Out:  an Outcome: what was sent, what arrived and where in the order, memory over time, CPU
Owns: the server, the load, the agent and the collector of a run

One connection sends requests whose paths sort in the order in which they were sent, so the collector sees at once what is
missing, comes twice or comes too early.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.status_socket import ask_status
from tests.bench.processes import cpu_ns, memory
from tests.bench.rounds import build_ping_pong
from tests.end_to_end.accounts import Accounts, read_accounts
from tests.end_to_end.agent import Agent, running_agent
from tests.end_to_end.sink import Sink, http_sink
from tests.services.processes import free_port, wait_until
from tests.services.servers import Running, plain_nginx, public_folder

TARGET = "/shop/"
LONGEST_BACK_OFF_SECONDS = 90  # 36, and a busy machine


@dataclass
class Order:
    """Looks at each span as it arrives, and keeps none."""

    is_unique: bool  # whether no path comes twice
    arrived: int = 0
    misplaced: int = 0  # not after all that came before
    last: str = ""

    def look(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    path = next(pair.value.string_value for pair in span.attributes if pair.key == "url.path")
                    self.arrived += 1
                    self.misplaced += self.is_unique and path <= self.last
                    self.last = path


@dataclass
class Resources:
    """The agent's memory, looked at in a thread, and its CPU time."""

    agent: Agent
    every_s: float
    samples: list[tuple[float, float]] = field(default_factory=list)  # seconds since the start, MB of both processes
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.pids = (self.agent.probe_pid, self.agent.exporter_pid)
        self.began = time.monotonic()
        self.cpu_before_ns = self.cpu_ns()

    def cpu_ns(self) -> int:
        return sum(cpu_ns(pid) for pid in self.pids)

    def look(self) -> None:
        while not self.stop.wait(self.every_s):
            used_mb = sum(memory(pid).rss_mb for pid in self.pids)
            self.samples.append((time.monotonic() - self.began, used_mb))

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self.look)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join()


@dataclass(frozen=True)
class Outcome:
    name: str
    seconds: float
    sent: int
    arrived: int
    misplaced: int
    accounts: Accounts
    cpu_us_per_request: float
    memory_mb: list[tuple[float, float]]
    drained_in_s: float | None = None  # after the collector came back
    largest_spool_mb: float = 0.0

    @property
    def dropped(self) -> int:
        return self.accounts.losses.get("dropped", 0)

    @property
    def is_whole(self) -> bool:
        """Every request is a span that arrived in its place, or is counted."""
        counted = self.accounts.exported + self.accounts.lost
        return (
            self.sent == self.accounts.began == counted
            and self.arrived == self.accounts.exported
            and not self.misplaced
        )

    def memory_at(self, part: float) -> float:
        """The median of the tenth of all samples that is nearest to that part of the run."""
        end_s = self.memory_mb[-1][0]
        nearest = sorted(self.memory_mb, key=lambda sample: abs(sample[0] / end_s - part))
        near = sorted(used for _, used in nearest[: max(1, len(nearest) // 10)])
        return near[len(near) // 2]

    def lines(self) -> Iterator[str]:
        yield f"{self.name}, {self.seconds:.0f} s: {'whole' if self.is_whole else 'NOT WHOLE'}"
        in_order = "" if self.drained_in_s is None else f", {self.misplaced} out of order"
        yield f"  {self.sent} requests, {self.arrived} spans arrived{in_order}"
        yield f"  counted: {self.accounts.losses or 'no loss'}"
        if self.drained_in_s is not None:
            spool = f"; on disk at most {self.largest_spool_mb:.0f} MB" if self.largest_spool_mb else ""
            yield f"  all delivered {self.drained_in_s:.1f} s after the collector took the first{spool}"
        parts = ", ".join(f"{self.memory_at(part):.1f}" for part in (0.1, 0.25, 0.5, 0.75, 0.95))
        highest = max(used for _, used in self.memory_mb)
        yield f"  memory of both processes, MB RSS at 10, 25, 50, 75, 95 % of the time: {parts}; highest {highest:.1f}"
        yield f"  agent {self.cpu_us_per_request:.1f} µs CPU a request"


@dataclass
class Run:
    """What all runs have: nginx, a client, a status socket."""

    folder: Path
    ends: ExitStack
    server: Running
    client: Path

    def start_load(self, requests: int, per_second: int, paths: int) -> "subprocess.Popen[bytes]":
        command = [str(self.client), str(self.server.port), TARGET, str(requests), str(per_second), str(paths)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.ends.callback(process.wait)
        self.ends.callback(process.kill)
        return process

    def start_agent(self, sink: Sink, **settings: str) -> Agent:
        texts = {
            "OTEL_EBPF_OPEN_PORT": str(self.server.port),
            "OTEL_EBPF_STATUS_SOCKET": str(self.folder / "status.sock"),
        }
        agent = running_agent(self.folder / "agent", sink, is_ended_by_test=True, **texts, **settings)
        return self.ends.enter_context(agent)

    def counts(self) -> dict[str, int]:
        """What the agent says of its spans."""
        found: dict[str, int] = json.loads(ask_status(str(self.folder / "status.sock")))["collector"]
        return found


@contextmanager
def prepared(folder: Path) -> Iterator[Run]:
    with ExitStack() as ends:
        server = ends.enter_context(plain_nginx(folder / "nginx"))
        yield Run(folder, ends, server, build_ping_pong(folder))


def ended(load: "subprocess.Popen[bytes]", seconds: float) -> None:
    assert 0 == load.wait(seconds), "a request was not answered"


def steady(folder: Path, seconds: int, *, per_second: int, paths: int) -> Outcome:
    """A collector that takes everything; nothing may grow."""
    requests = seconds * per_second
    with prepared(folder) as run:
        sink = run.ends.enter_context(http_sink())
        sink.keeps_spans = False
        order = Order(is_unique=False)
        sink.look = order.look
        agent = run.start_agent(sink)
        used = Resources(agent, seconds / 200)
        with used.watched():
            ended(run.start_load(requests, per_second, paths), seconds * 1.5 + 60)
            wait_until(lambda: run.counts()["waiting"] == 0, "all is sent", seconds=60)
        cpu_us = (used.cpu_ns() - used.cpu_before_ns) / requests / 1000
        agent.assert_clean_stop()
        name = f"{per_second} requests/s over {paths} paths"
        accounts = read_accounts(agent.messages)
        return Outcome(name, seconds, requests, order.arrived, order.misplaced, accounts, cpu_us, used.samples)


def outage(folder: Path, seconds: int, *, per_second: int, has_spool: bool, **settings: str) -> Outcome:
    """A collector that is away for so long, while spans go on coming, then and afterwards."""
    seconds_after = max(5, seconds // 10)
    requests = (seconds + seconds_after) * per_second
    port = free_port()
    with prepared(folder) as run:
        spool = run.ends.enter_context(public_folder()) / "spool"
        if has_spool:
            settings["OTEL_EBPF_SPOOL_DIR"] = str(spool)
        agent = run.start_agent(Sink(f"http://127.0.0.1:{port}", "http/protobuf"), **settings)
        used = Resources(agent, seconds / 200)
        with used.watched():
            load = run.start_load(requests, per_second, paths=requests)
            wait_until(
                lambda: spans_of(run.counts()) >= seconds * per_second,
                "the outage has seen what it is to see",
                seconds=2 * seconds + 60,
                every_s=0.2,
            )
            largest_mb = sum(file.stat().st_size for file in spool.iterdir()) / 1e6 if has_spool else 0.0
            sink = run.ends.enter_context(http_sink(port))
            sink.keeps_spans = False
            order = Order(is_unique=True)
            sink.look = order.look
            wait_until(lambda: order.arrived > 0, "the collector is found again", seconds=LONGEST_BACK_OFF_SECONDS)
            back_at = time.monotonic()
            ended(load, seconds_after * 2 + 60)
            wait_until(lambda: is_drained(run.counts()), "all is sent", seconds=seconds + 60)
            drained_in_s = time.monotonic() - back_at
        cpu_us = (used.cpu_ns() - used.cpu_before_ns) / requests / 1000
        agent.assert_clean_stop()
        name = f"collector away at {per_second} requests/s, {'with' if has_spool else 'without'} a spool"
        accounts = read_accounts(agent.messages)
        return Outcome(
            name,
            seconds,
            requests,
            order.arrived,
            order.misplaced,
            accounts,
            cpu_us,
            used.samples,
            drained_in_s,
            largest_mb,
        )


def spans_of(counts: dict[str, int]) -> int:
    """All that there were."""
    return sum(counts[name] for name in ("exported", "rejected", "dropped", "waiting", "on_disk"))


def is_drained(counts: dict[str, int]) -> bool:
    return counts["waiting"] == 0 and counts["on_disk"] == 0
