"""Which probes are in which C libraries, by what processes come, map and go. The kernel's part is a list of attachments."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otel_ebpf.probe import function_watch
from otel_ebpf.probe.function_finder import find_function
from otel_ebpf.probe.function_watch import MAX_FILES
from otel_ebpf.probe.lookup_watch import LookupWatch
from otel_ebpf.probe.uprobes import Place, UprobeForm
from tests.unit.probe.test_function_finder import address_in_memory, compiled, mapping_of
from tests.unit.probe.watch_stage import Map, Processes, mapped, staged
from tests.unit.probe.watch_stage import Stage as AnyStage

PROGRAMS = ("on_lookup_entry", "on_lookup_end")
Stage = AnyStage[LookupWatch]


@pytest.fixture(params=list(UprobeForm), ids=lambda form: form.name.lower())
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with staged(
        lambda loaded, processes: LookupWatch(loaded, request.param, processes), PROGRAMS, ("mapped_files",)
    ) as made:
        yield made


@pytest.fixture
def libc(tmp_path: Path) -> Path:
    return copy_of_libc(tmp_path / "libc.so.6")


def copy_of_libc(path: Path) -> Path:
    path.write_bytes(mapping_of(address_in_memory())[0].read_bytes())
    return path


def test_it_is_probed_where_it_begins_and_ends_and_nowhere_at_its_return(stage: Stage, libc: Path) -> None:
    """A return probe would be in every process of the host, and end those that switch stacks."""
    with libc.open("rb") as file:
        places = find_function(file, "getaddrinfo")
    assert places is not None
    stage.maps_file(1, libc, Path("/bin/true"))
    stage.settle()

    assert {
        "on_lookup_entry": [Place(places.begin, 0)],
        "on_lookup_end": [Place(end.offset, end.result) for end in places.ends],
    } == {one.program: one.places for one in stage.kernel.attached}
    assert {(libc.stat().st_ino, False)} == {(one.inode, one.at_return) for one in stage.kernel.attached}
    assert 1 == stage.watch.probed_count
    assert stage.watch.form_text in ("uprobes on getaddrinfo (multi)", "uprobes on getaddrinfo (perf)")


def test_a_file_has_its_probes_once_whoever_maps_it(stage: Stage, libc: Path) -> None:
    for pid in (1, 2):
        stage.maps_file(pid, libc)
        stage.settle()

    assert 2 == len(stage.kernel.made)


def test_probes_leave_a_moment_after_the_last_process(stage: Stage, libc: Path) -> None:
    """Another one that comes meanwhile finds them."""
    for pid in (1, 2):
        stage.maps_file(pid, libc)
        stage.settle()

    stage.exit(1)
    stage.wait()
    assert 1 == stage.watch.probed_count
    stage.exit(2)
    stage.watch.tick()
    stage.maps_file(3, libc)
    stage.wait()
    assert 1 == stage.watch.probed_count
    stage.exit(3)
    stage.wait()
    assert 0 == stage.watch.probed_count
    assert {} == stage.maps["mapped_files"]
    stage.maps_file(4, libc)
    stage.settle()
    assert 1 == stage.watch.probed_count


def test_attaching_and_detaching_are_done_patiently(libc: Path) -> None:
    """The kernel goes through all processes of the host for that."""
    patient: list[str] = []

    def patiently(work: Callable[[], list[int]]) -> list[int]:
        before = len(stage.kernel.attached)
        done = work()
        patient.append(f"{before} to {len(stage.kernel.attached)}")
        return done

    with staged(
        lambda loaded, processes: LookupWatch(loaded, UprobeForm.MULTI, processes, patiently),
        PROGRAMS,
        ("mapped_files",),
    ) as stage:
        stage.maps_file(1, libc)
        stage.settle()
        stage.exit(1)
        stage.wait()

    assert ["0 to 2", "2 to 0"] == patient


def test_the_kernel_tells_of_each_process_that_maps_it(stage: Stage, libc: Path) -> None:
    """One that is new is looked at before it has mapped anything."""
    stage.maps_file(1, libc, Path("/bin/true"))

    assert 1 == len(stage.maps["mapped_files"])


def test_a_process_that_ends_early_leaves_it_to_the_next(stage: Stage, libc: Path, tmp_path: Path) -> None:
    """Nobody can open it any more, and it is no trouble."""
    (tmp_path / "other").mkdir()
    stage.maps_file(5, copy_of_libc(tmp_path / "other" / "libc.so.6"))
    stage.maps_file(1, libc)
    stage.exit(1)
    stage.settle()
    assert 1 == stage.watch.probed_count
    assert [] == stage.watch.troubles

    stage.maps_file(2, libc)
    stage.settle()
    assert 2 == stage.watch.probed_count


def test_it_is_probed_when_the_last_process_ends_while_it_is_looked_into(stage: Stage, libc: Path) -> None:
    """The next one comes soon."""
    stage.maps_file(1, libc)
    stage.watch.inspect()
    stage.exit(1)
    stage.settle()
    assert 1 == stage.watch.probed_count
    stage.wait()
    assert 0 == stage.watch.probed_count


def test_a_file_that_got_the_number_of_another_is_looked_into_itself(stage: Stage, libc: Path) -> None:
    """Places of the former one may be in the midst of its instructions."""
    stage.maps_file(1, libc)
    stage.settle()
    (first,) = {tuple(one.places) for one in stage.kernel.attached if one.program == "on_lookup_entry"}
    stage.exit(1)
    stage.wait()
    other = compiled(libc.parent, "-O0", "-fstack-protector-all")
    libc.write_bytes(other.read_bytes())  # the same number
    stage.maps_file(2, libc)
    stage.settle()

    (second,) = {tuple(one.places) for one in stage.kernel.attached if one.program == "on_lookup_entry"}
    assert first != second


def test_a_library_that_was_replaced_is_told(stage: Stage, libc: Path) -> None:
    old = mapped(libc)
    libc.rename(libc.with_suffix(".old"))
    copy_of_libc(libc)
    stage.processes.mapped[1] = [old]
    stage.watch.look_at(1)
    stage.settle()

    assert [
        f"names that are looked up by {libc} are not seen: it was replaced while processes run it: restart them"
    ] == (stage.watch.troubles)


def test_what_the_kernel_refuses_is_told(stage: Stage, libc: Path) -> None:
    stage.kernel.refused = PROGRAMS
    stage.maps_file(1, libc)
    stage.settle()

    assert [f"names that are looked up by {libc} are not seen: cannot attach: Operation not supported"] == (
        stage.watch.troubles
    )


def test_a_library_whose_function_is_not_found_is_told(stage: Stage, tmp_path: Path) -> None:
    empty = tmp_path / "libc.so.6"
    empty.write_bytes(b"\x7fELF")
    stage.maps_file(1, empty)
    stage.settle()

    assert [f"names that are looked up by {empty} are not seen: its getaddrinfo could not be made out"] == (
        stage.watch.troubles
    )


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("libc.so.6", True),
        ("libc-2.31.so", True),
        ("ld-musl-x86_64.so.1", True),
        ("libc.musl-x86_64.so.1", True),
        ("libc.so", True),
        ("libcurl.so.4", False),
        ("libc.so.6.txt", False),
        ("mylibc.so.6", False),
    ],
)
def test_c_libraries_are_told_by_their_names(name: str, is_one: bool, stage: Stage, tmp_path: Path) -> None:
    stage.maps_file(1, copy_of_libc(tmp_path / name))
    stage.settle()

    assert is_one == stage.watch.probed_count


def test_so_many_are_remembered_and_no_more(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libc: Path
) -> None:
    monkeypatch.setattr(function_watch, "MAX_FILES", 2)
    (tmp_path / "other").mkdir()
    (tmp_path / "third").mkdir()
    stage.maps_file(1, libc)
    stage.maps_file(2, copy_of_libc(tmp_path / "other" / "libc.so.6"))
    stage.settle()
    stage.maps_file(3, copy_of_libc(tmp_path / "third" / "libc.so.6"))
    stage.settle()
    assert 2 == stage.watch.probed_count
    assert ["names that are looked up are not all seen: more than 2 C libraries are in use"] == stage.watch.troubles

    stage.exit(1)
    stage.maps_file(4, tmp_path / "third" / "libc.so.6")
    stage.settle()
    assert 2 == stage.watch.probed_count
    assert 256 == MAX_FILES


@pytest.mark.parametrize(
    ("form", "programs"), [(None, PROGRAMS), (UprobeForm.MULTI, ())], ids=["no form", "not loaded"]
)
def test_switched_off_nothing_is_looked_at(form: UprobeForm | None, programs: tuple[str, ...], libc: Path) -> None:
    loaded: Any = SimpleNamespace(maps={"mapped_files": Map()}, has=programs.__contains__)
    processes = Processes()
    processes.mapped[1] = [mapped(libc)]
    watch = LookupWatch(loaded, form, processes)
    watch.look_at(1)

    assert -1 == watch.fileno()
    assert ("", 0) == (watch.form_text, watch.probed_count)
