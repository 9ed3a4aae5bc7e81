"""Brokers for the Kafka tier: a small one for every push, Apache Kafka for outages.

In:   a folder, a topic
Out:  a broker that listens on loopback and has the topic
Owns: its process

Both are the real protocol. The small one keeps all in memory, group membership too, so it can be frozen but not restarted.
"""

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.processes import CHECKOUT, end, free_port, is_listening, running, start, wait_until
from tools.go_build import build, cache_folder

KAFKA = CHECKOUT / "tests" / "kafka"
PARTITIONS = 4


@dataclass
class Broker:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """As unreachable as a network that drops everything."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


@contextmanager
def small_broker(folder: Path, topic: str) -> Iterator[Broker]:
    """franz-go's kfake: 0.1 s to start, 10 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(build(KAFKA / "broker")), f"-port={port}", f"-topic={topic}", f"-partitions={PARTITIONS}"]
    with running(command, ("127.0.0.1", port), log=folder / "log") as process:
        broker = Broker(port, process)
        try:
            yield broker
        finally:
            broker.thaw()  # a frozen process would not hear that it shall end


class ApacheKafka:
    """One node of Apache Kafka in KRaft mode, which can be killed and started again on its data."""

    def __init__(self, folder: Path, topic: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.controller_port = free_port(), free_port()
        self.folder, self.topic = folder, topic
        self.settings = folder / "server.properties"
        text = (KAFKA / "server.properties").read_text()
        for name, value in {"PORT": self.port, "CONTROLLER": self.controller_port, "FOLDER": folder / "data"}.items():
            text = text.replace(f"${{{name}}}", str(value))
        self.settings.write_text(text)
        self.run("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(self.settings))
        self.start()
        partitions = ("--partitions", str(PARTITIONS), "--replication-factor", "1")
        self.run("org.apache.kafka.tools.TopicCommand", *self.here, "--create", "--topic", topic, *partitions)

    @property
    def here(self) -> tuple[str, str]:
        return "--bootstrap-server", self.address

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def java(self, heap: str, *words: str) -> list[str]:
        return [needed("java"), f"-Xmx{heap}", "-cp", f"{jars()}/*", *words]

    def run(self, *words: str) -> None:
        done = subprocess.run(self.java("128m", *words), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        self.process = start(self.java("256m", "kafka.Kafka", str(self.settings)), log=self.folder / "log")
        wait_until(lambda: is_listening(("127.0.0.1", self.port)), f"Kafka listens; see {self.folder}/log", seconds=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def rewind(self, group: str, seconds: int) -> None:
        """The group will read again what came within the last `seconds`, as an operator would have it."""
        how = ("--reset-offsets", "--by-duration", f"PT{seconds}S", "--execute")
        command = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
        self.run(command, *self.here, "--group", group, "--topic", self.topic, *how)


@contextmanager
def apache_kafka(folder: Path, topic: str) -> Iterator[ApacheKafka]:
    broker = ApacheKafka(folder, topic)
    try:
        yield broker
    finally:
        end(broker.process, seconds=15)


def needed(program: str) -> str:
    found = shutil.which(program)
    assert found, f"{program} is not installed: apt-get install default-jre-headless maven"
    return found


def jars() -> Path:
    """Apache Kafka from Maven Central, once: 54 MB in the cache of built programs."""
    pom = KAFKA / "pom.xml"
    folder = cache_folder() / f"kafka-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        partial = folder.with_suffix(f".{os.getpid()}.tmp")
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
        subprocess.run([needed("mvn"), "-q", "-B", "-f", str(pom), *copy], check=True, stdout=subprocess.DEVNULL)
        partial.rename(folder)
    return folder
