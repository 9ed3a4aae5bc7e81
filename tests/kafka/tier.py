"""The Kafka tier on loopback: node collectors, a broker, gateway collectors, with collector-config/kafka/ as it is shipped.

In:   a broker's address and a topic
Out:  what each gateway has received and what it has kept
Owns: the collectors

Only addresses, folders and times are laid over the shipped files, and each gateway writes two files instead of sending to
a backend: all that it received, before sampling, and what it kept. The first is written without a buffer, so a gateway that
is killed has written what it has told Kafka that it has.
"""

import random
import subprocess
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.backends import CONFIGURATIONS, collector, written_spans
from tests.end_to_end.sink import Span
from tests.kafka.traces import SPANS_OF_A_TRACE, Sending, Trace, make_traces, posts_of
from tests.services.processes import free_port, wait_until

GROUP = "otel-gateways"
REPLAY_GROUP = f"{GROUP}-replay"
UNBUFFERED = {"max_megabytes": 10_000}  # the file exporter buffers unless its file may rotate


@dataclass
class Node:
    endpoint: str
    process: subprocess.Popen[bytes]


@dataclass
class Gateway:
    """One life of one gateway: a restarted one has forgotten which spans it held."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def received(self) -> list[Span]:
        return written_spans(self.folder / "received.jsonl")

    @property
    def kept(self) -> list[Span]:
        return written_spans(self.folder / "kept.jsonl")


@dataclass
class Tier:
    folder: Path
    address: str  # the broker's
    topic: str
    ends: ExitStack
    by_trace_id: bool = True
    decision_wait_s: int = 5
    receiver: dict[str, object] = field(default_factory=dict)  # {"session_timeout": "10s"}
    nodes: dict[str, Node] = field(default_factory=dict)
    gateways: list[Gateway] = field(default_factory=list)
    replays: list[Gateway] = field(default_factory=list)
    randomness: random.Random = field(default_factory=lambda: random.Random(4))

    def start_node(self, name: str) -> Node:
        """Also again, after `kill`: on the same port, with the queue that it left on disk."""
        port = int(self.nodes[name].endpoint.rpartition(":")[2]) if name in self.nodes else free_port()
        values = {
            "receivers.otlp.protocols.http.endpoint": f"127.0.0.1:{port}",
            "receivers.otlp.protocols.grpc.endpoint": f"127.0.0.1:{free_port()}",
            "exporters.kafka.partition_traces_by_id": self.by_trace_id,
        }
        queue = str(self.folder / f"queue-{name}")
        env = {"NODE_NAME": name, "KAFKA": self.address, "TOPIC": self.topic, "QUEUE_FOLDER": queue}
        files = [CONFIGURATIONS / "kafka" / "node.yaml"]
        process = self.ends.enter_context(collector(self.folder / name, files, values, **env))
        self.nodes[name] = Node(f"http://127.0.0.1:{port}", process)
        return self.nodes[name]

    def start_gateway(self, name: str, group: str = GROUP) -> Gateway:
        """In the replay group without span metrics: those spans have been counted."""
        counted = group == GROUP
        lives = self.gateways if counted else self.replays
        folder = self.folder / f"{name}-{len(lives) + 1}"
        values: dict[str, object] = {
            **{f"receivers.kafka.{key}": value for key, value in self.receiver.items()},
            "exporters.file/received.path": str(folder / "received.jsonl"),
            "exporters.file/received.rotation": UNBUFFERED,
            "exporters.file/kept.path": str(folder / "kept.jsonl"),
            "exporters.file/kept.rotation": UNBUFFERED,
            "service.pipelines.traces.exporters": ["forward", *["span_metrics"] * counted, "file/received"],
            "service.pipelines.traces/kept.exporters": ["file/kept"],
        }
        files = [CONFIGURATIONS / "kafka" / "gateway.yaml"]
        if counted:
            files.append(CONFIGURATIONS / "span-metrics.yaml")
            values["exporters.prometheus.endpoint"] = f"127.0.0.1:{free_port()}"
        env = {
            "GATEWAY_NAME": name,
            "KAFKA": self.address,
            "TOPIC": self.topic,
            "GROUP": group,
            "DECISION_WAIT": f"{self.decision_wait_s}s",
        }
        process = self.ends.enter_context(collector(folder, files, values, **env))
        lives.append(Gateway(folder, process))
        return lives[-1]

    def start(self) -> None:
        """Two nodes, and two gateways that have both got their partitions: before that, traces would be split."""
        for name in ("node-1", "node-2"):
            self.start_node(name)
        for name in ("gateway-1", "gateway-2"):
            self.start_gateway(name)
        wait_until(self._all_gateways_read, "both gateways have partitions", seconds=120, every_s=0.2)

    def _all_gateways_read(self) -> bool:
        self.send(make_traces(20, self.randomness)).join()
        return all(gateway.received for gateway in self.gateways)

    def send(self, traces: list[Trace], *, pause_s: float = 0.0) -> Sending:
        return self.send_posts(posts_of(traces, self.randomness), pause_s=pause_s)

    def send_posts(self, posts: list[bytes], *, pause_s: float = 0.0) -> Sending:
        return Sending(posts, [node.endpoint for node in self.nodes.values()], pause_s=pause_s)

    def wait_until_received(self, traces: list[Trace], *, seconds: float = 120.0) -> None:
        wait_until(
            lambda: not missing(traces, self.gateways),
            f"every span has come to a gateway; {len(missing(traces, self.gateways))} have not",
            seconds=seconds,
            every_s=0.2,
        )

    def wait_until_decided(self, traces: list[Trace], lives: list[Gateway], *, seconds: float = 120.0) -> None:
        """Whole traces that must be kept have been."""
        wait_until(
            lambda: not must_keep_lost(traces, lives),
            f"failed traces are kept; {len(must_keep_lost(traces, lives))} are not",
            seconds=self.decision_wait_s + seconds,
            every_s=0.2,
        )


def missing(traces: Iterable[Trace], lives: Iterable[Gateway]) -> set[bytes]:
    """Spans that no gateway has received."""
    received = {span.span_id for gateway in lives for span in gateway.received}
    return {span_id for trace in traces for span_id in trace.span_ids} - received


def split(traces: Iterable[Trace], lives: Iterable[Gateway]) -> set[bytes]:
    """Traces whose spans came to more than one gateway, or to two lives of one."""
    holders = Counter(trace_id for gateway in lives for trace_id in {span.trace_id for span in gateway.received})
    return {trace.trace_id for trace in traces if holders[trace.trace_id] > 1}


def must_keep_lost(traces: Iterable[Trace], lives: Iterable[Gateway]) -> set[bytes]:
    """Failed traces of which no gateway, in one life, has kept all spans."""
    whole: set[bytes] = set()
    for gateway in lives:
        kept: dict[bytes, set[bytes]] = {}
        for span in gateway.kept:
            kept.setdefault(span.trace_id, set()).add(span.span_id)
        whole |= {trace_id for trace_id, span_ids in kept.items() if len(span_ids) == SPANS_OF_A_TRACE}
    return {trace.trace_id for trace in traces if trace.is_failed} - whole
