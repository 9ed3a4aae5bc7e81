"""Several sources at once, in a child: what waits for which, and what is left when nobody waits any more."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe.artifact import encode
from otel_ebpf.probe.prepare import Preparing
from otel_ebpf.probe.programs import Source
from tests.services.processes import children_of, is_alive, wait_until
from tests.unit.probe.artifacts import small_artifact

ARTIFACT = small_artifact()


class Compiler:
    """Stands in for bcc's interpreter. Texts that hold "slow" wait until they are let go, "wrong" ones do not compile."""

    def __init__(self, folder: Path) -> None:
        self.python, self.go_on, self.pids = folder / "python3", folder / "go-on", folder / "pids"
        (folder / "answer").write_bytes(encode(ARTIFACT))
        self.python.write_text(f"""#!/bin/sh
text=$(cat)
echo $$ >> {self.pids}
case "$text" in
*slow*) until test -e {self.go_on}; do sleep 0.01; done;;
*wrong*) echo "wrong.c:1:1: error: no" >&2; exit 4;;
esac
cat {folder}/answer
""")
        self.python.chmod(0o755)

    def prepare(self, *texts: str) -> Preparing:
        return Preparing(
            [Source(text) for text in texts], {}, cache_dir=None, bcc_python=str(self.python), progress=lambda _: None
        )

    def at_work(self) -> list[int]:
        return [int(pid) for pid in self.pids.read_text().split()] if self.pids.exists() else []


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[Compiler]:
    before = len(os.listdir("/proc/self/fd")), children_of(os.getpid())
    yield Compiler(tmp_path)
    assert before == (len(os.listdir("/proc/self/fd")), children_of(os.getpid()))


def headers_folders() -> set[Path]:
    return {*Path("/run").glob("otel-ebpf-headers-*"), *Path("/tmp").glob("otel-ebpf-headers-*")}


def test_the_first_is_there_before_the_second(compiler: Compiler):
    preparing = compiler.prepare("quick", "slow")

    assert ARTIFACT == preparing.artifact(0)
    assert preparing.fileno() >= 0
    compiler.go_on.touch()
    assert ARTIFACT == preparing.artifact(1) == preparing.artifact(1)
    preparing.close()


def test_it_can_be_waited_for_beside_other_things(compiler: Compiler):
    """Its descriptor can be read when there is more, until all is there."""
    preparing = compiler.prepare("quick", "other")
    deadline = time.monotonic() + 30

    while preparing.fileno() >= 0 and time.monotonic() < deadline:
        assert select.select([preparing], [], [], 30)[0]
        preparing.receive()

    assert (-1, ARTIFACT, ARTIFACT) == (preparing.fileno(), preparing.artifact(0), preparing.artifact(1))
    preparing.receive()  # there is nothing more to come


def test_one_that_does_not_compile_spoils_itself_alone(compiler: Compiler):
    preparing = compiler.prepare("wrong", "right")

    for _ in range(2):
        with pytest.raises(ProbeError, match="error: no"):
            preparing.artifact(0)
    assert ARTIFACT == preparing.artifact(1)
    preparing.close()


def test_what_nobody_waits_for_ends_at_once_and_leaves_nothing(compiler: Compiler):
    before = headers_folders()
    preparing = compiler.prepare("slow", "slow too", "slow again")
    wait_until(lambda: len(compiler.at_work()) == min(3, len(os.sched_getaffinity(0))), "they are at work")

    preparing.close()

    assert [] == [pid for pid in compiler.at_work() if is_alive(pid)]
    assert headers_folders() <= before


def test_it_ends_with_the_process_that_waits_for_it(compiler: Compiler, tmp_path: Path):
    """Whoever kills the agent finds no compiler at work afterwards."""
    script = f"""
import signal, sys
sys.path.insert(0, {str(Path.cwd())!r})
from otel_ebpf.probe.prepare import Preparing
from otel_ebpf.probe.programs import Source
Preparing([Source("slow")], {{}}, cache_dir=None, bcc_python={str(compiler.python)!r}).artifact(0)
"""
    agent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    wait_until(compiler.at_work, "it is at work")
    (child,) = children_of(agent.pid)

    agent.send_signal(signal.SIGKILL)
    agent.wait(30)

    wait_until(lambda: not any(is_alive(pid) for pid in (child, *compiler.at_work())), "all have ended")
