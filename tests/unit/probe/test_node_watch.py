"""Which processes' callbacks are followed, by what they run. The kernel's part is a list of attachments and a map."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.probe import node_watch
from otel_ebpf.probe.inspector import FileInspector
from otel_ebpf.probe.node_findings import Layout, NodeProgram, Promises
from otel_ebpf.probe.node_watch import TARGET_IS_NODE, NodeWatch
from otel_ebpf.probe.uprobes import UprobeForm
from tests.unit.probe.watch_stage import Stage as AnyStage
from tests.unit.probe.watch_stage import staged

FOUND = NodeProgram(Layout(*range(1, 15)), 1000, Promises(1, 2, (3, 4), 5, 6, 7, 8))
WITHOUT_PROMISES = FOUND._replace(promises=None, why_none="its symbols lack one")
# A file's content says what the inspector finds in it.
FINDINGS = {b"official": FOUND, b"other": WITHOUT_PROMISES, b"odd": "it is odd"}
PROGRAM = struct.Struct("<QQQQQIIIIIIIIIIIII4x")
Stage = AnyStage[NodeWatch]


def staged_watch(monkeypatch: pytest.MonkeyPatch, *programs: str) -> Iterator[Stage]:
    inspector = FileInspector(lambda file: FINDINGS.get(os.read(file, 100)), node_watch._decode)
    monkeypatch.setattr(node_watch, "FileInspector", lambda *_: inspector)
    with staged(
        lambda loaded, processes: NodeWatch(loaded, UprobeForm.SESSION, processes), programs, ["node_programs"]
    ) as made:
        yield made
        assert {UprobeForm.MULTI} >= {one.form for one in made.kernel.made}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield from staged_watch(monkeypatch, "on_node_made")


def probes(stage: Stage) -> list[tuple[str, int]]:
    return [(one.program, place.offset) for one in stage.kernel.attached for place in one.places]


def runs(stage: Stage, pid: int, folder: Path, content: bytes, name: str = "node") -> Path:
    """Now, instead of what it ran before."""
    path = folder / content.decode() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    stage.processes.mapped.pop(pid, None)
    stage.maps_file(pid, path)
    stage.settle()
    return path


def known(stage: Stage, pid: int) -> tuple[int, ...] | None:
    value = stage.maps["node_programs"].get(struct.pack("<I", pid))
    return None if value is None else PROGRAM.unpack(value)


def test_a_process_that_runs_node_is_followed(stage: Stage, tmp_path: Path) -> None:
    runs(stage, 1, tmp_path, b"official")

    assert [("on_node_made", 1000)] == probes(stage)
    assert TARGET_IS_NODE == stage.watch.target_flags(1)
    found = known(stage, 1)
    assert found is not None
    assert (*range(1, 15), 0, 0, 0) == found[1:]


def test_a_file_has_its_probes_once(stage: Stage, tmp_path: Path) -> None:
    runs(stage, 1, tmp_path, b"official")
    runs(stage, 2, tmp_path, b"official")

    assert 1 == len(probes(stage))
    one, other = known(stage, 1), known(stage, 2)
    assert one is not None
    assert other is not None
    assert one[1:] == other[1:]


def test_what_the_kernel_has_counted_stays_and_is_told(stage: Stage, tmp_path: Path) -> None:
    """Threads that found no room, and numbers that were none."""
    runs(stage, 1, tmp_path, b"official")
    stage.maps["node_programs"][struct.pack("<I", 1)] = PROGRAM.pack(9, *range(1, 15), 1, 1, 1)
    stage.look_at(1)
    stage.watch.tick()

    assert [
        "some calls of process 1 have no parent: too many threads of this host run Node",
        "some calls of process 1 have no parent: its callbacks have no numbers where Node keeps them",
        "some calls of process 1 have no parent: it has more than one queue of jobs",
    ] == stage.watch.troubles


def test_a_program_that_lacks_its_probe_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    stage.kernel.refused = ("on_node_made",)
    path = runs(stage, 1, tmp_path, b"official")

    assert ([], 0, None) == (probes(stage), stage.watch.target_flags(1), known(stage, 1))
    assert [f"calls of {path} have no parent: cannot attach: Operation not supported"] == stage.watch.troubles


def test_a_node_that_cannot_be_read_is_named_and_another_program_is_not(stage: Stage, tmp_path: Path) -> None:
    """Debian's own has no symbols."""
    odd, unknown = runs(stage, 1, tmp_path, b"odd"), runs(stage, 2, tmp_path, b"stripped", "nodejs")
    runs(stage, 3, tmp_path, b"official", "python")

    assert [
        f"calls of {odd} have no parent: it is odd",
        f"calls of {unknown} have no parent: it has no symbols, unlike the builds of nodejs.org",
    ] == stage.watch.troubles
    assert ([], [0, 0, 0]) == (probes(stage), [stage.watch.target_flags(pid) for pid in (1, 2, 3)])


def test_one_that_is_followed_again_is_known_to_have_been_left(stage: Stage, tmp_path: Path) -> None:
    """What it did meanwhile nobody has seen."""
    runs(stage, 1, tmp_path, b"official")
    before = known(stage, 1)
    stage.watch.forget(1)
    stage.look_at(1)

    after = known(stage, 1)
    assert before is not None
    assert after is not None
    assert before[0] < after[0]


def test_another_program_has_nothing_of_the_one_before(stage: Stage, tmp_path: Path) -> None:
    """exec"""
    runs(stage, 1, tmp_path, b"official")
    runs(stage, 1, tmp_path, b"python", "python")

    assert (0, None) == (stage.watch.target_flags(1), known(stage, 1))


def test_probes_leave_a_moment_after_the_last_process(stage: Stage, tmp_path: Path) -> None:
    runs(stage, 1, tmp_path, b"official")
    stage.exit(1)
    stage.watch.tick()
    assert probes(stage)
    stage.wait()

    assert ([], {}) == (probes(stage), stage.maps["node_programs"])


ON_PROMISES = (
    *("on_node_collected", "on_node_jobs_end", "on_node_jobs", "on_node_other_job"),
    *("on_node_job", "on_node_then_end", "on_node_then"),
)


@pytest.fixture
def promises(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """With the programs that follow them."""
    yield from staged_watch(monkeypatch, "on_node_made", *ON_PROMISES)


def test_what_ends_a_job_has_its_probe_before_what_asks_for_one(promises: Stage, tmp_path: Path) -> None:
    runs(promises, 1, tmp_path, b"official")

    names = [*ON_PROMISES[:5], "on_node_job", "on_node_then_end", "on_node_then"]
    assert [("on_node_made", 1000), *zip(names, [8, 2, 1, 5, 3, 4, 7, 6], strict=True)] == probes(promises)


def test_where_one_of_the_probes_on_promises_is_refused_there_are_none(promises: Stage, tmp_path: Path) -> None:
    """Numbers are followed all the same: they need no other probe."""
    promises.kernel.refused = ("on_node_then",)
    path = runs(promises, 1, tmp_path, b"official")

    assert ([("on_node_made", 1000)], TARGET_IS_NODE) == (probes(promises), promises.watch.target_flags(1))
    why = "has no parent: cannot attach: Operation not supported"
    assert [f"what {path} calls behind an await {why}"] == promises.watch.troubles


def test_where_promises_cannot_be_found_that_is_said(promises: Stage, tmp_path: Path) -> None:
    path = runs(promises, 1, tmp_path, b"other")

    assert [("on_node_made", 1000)] == probes(promises)
    assert [f"what {path} calls behind an await has no parent: its symbols lack one"] == promises.watch.troubles
