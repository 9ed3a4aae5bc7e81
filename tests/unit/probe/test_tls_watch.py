"""Which probes are in which files, by what processes come, map and go. The kernel's part is a list of attachments."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.probe import go_library, uprobes
from otel_ebpf.probe.tls_functions import GoTls
from otel_ebpf.probe.tls_watch import TARGET_WITHOUT_RETURN_PROBES, TlsWatch, troubles
from otel_ebpf.probe.uprobes import UprobeForm
from tests.unit.probe.tls_libraries import system_library
from tests.unit.probe.watch_stage import Stage as AnyStage
from tests.unit.probe.watch_stage import mapped, staged

NAMES = ("on_tls_call", "on_tls_entry", "on_tls_return", "on_go_write", "on_go_written", "on_go_read")
Stage = AnyStage[TlsWatch]


@pytest.fixture(params=[UprobeForm.SESSION, UprobeForm.MULTI], ids=lambda form: form.name.lower())
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with staged(
        lambda loaded, processes: TlsWatch(loaded, request.param, processes), NAMES, ("tls_layouts", "mapped_files")
    ) as made:
        yield made


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return copy_of_library(tmp_path / "libssl.so.3")


def copy_of_library(path: Path) -> Path:
    path.write_bytes(system_library().read_bytes())
    return path


def programs(stage: Stage) -> list[tuple[str, bool]]:
    return [(one.program, one.at_return) for one in stage.kernel.attached]


def test_a_file_has_its_probes_once_whoever_maps_it(stage: Stage, library: Path) -> None:
    stage.maps_file(1, library, Path("/bin/true"))
    stage.settle()
    first = stage.kernel.attached
    stage.maps_file(2, library)
    stage.settle()

    assert first
    assert {library.stat().st_ino} == {one.inode for one in first}
    assert first == stage.kernel.attached


def test_probes_leave_a_moment_after_the_last_process(stage: Stage, library: Path) -> None:
    """Another one that comes meanwhile finds them."""
    stage.maps_file(1, library)
    stage.maps_file(2, library)
    stage.settle()
    first = stage.kernel.attached

    stage.exit(1)
    stage.wait()
    assert first == stage.kernel.attached
    stage.exit(2)
    stage.watch.tick()
    stage.maps_file(3, library)
    stage.wait()
    assert first == stage.kernel.attached
    stage.exit(3)
    stage.wait()

    assert [] == stage.kernel.attached
    assert {} == stage.maps["mapped_files"]


def test_a_process_that_ends_while_its_library_is_attached_is_no_user_of_it(
    stage: Stage, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is told before its own turn comes: nobody would tell it again."""

    def attach(*arguments: object, **options: bool) -> list[int]:
        stage.exit(2)
        return stage.kernel.attach(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(uprobes, "attach", attach)
    stage.maps_file(1, library)
    stage.maps_file(2, library)
    stage.settle()
    assert stage.kernel.attached

    stage.exit(1)
    stage.wait()

    assert [] == stage.kernel.attached


def test_a_library_that_is_loaded_later_is_found(stage: Stage, library: Path) -> None:
    stage.maps_file(1, Path("/bin/true"))
    stage.settle()
    assert [] == stage.kernel.attached

    stage.maps_file(1, library)
    stage.settle()

    assert stage.kernel.attached


def test_two_libraries_have_two_layouts(stage: Stage, library: Path, tmp_path: Path) -> None:
    """The cookie of each place says which."""
    stage.maps_file(1, library, copy_of_library(tmp_path / "another.so"))
    stage.settle()

    entries = [one for one in stage.kernel.attached if one.program != "on_tls_return"]
    by_inode = {one.inode: {place.cookie & 0xFF for place in one.places} for one in entries}
    assert 2 == len(by_inode) == len(stage.maps["tls_layouts"])
    assert 2 == len({cookie for cookies in by_inode.values() for cookie in cookies})


def test_a_process_that_switches_stacks_gets_no_return_probe(stage: Stage, library: Path, tmp_path: Path) -> None:
    """What a function moved is read behind its calls there, and in all processes that share the file."""
    switcher = tmp_path / "_greenlet.cpython-311.so"
    switcher.write_bytes(b"")
    stage.maps_file(1, library)
    stage.maps_file(2, switcher, library)
    stage.settle()

    assert (TARGET_WITHOUT_RETURN_PROBES, 0) == (stage.watch.target_flags(2), stage.watch.target_flags(1))
    assert ("on_tls_return", False) in programs(stage)


def test_no_return_probe_is_set_in_processes_that_nobody_asked_to_watch(stage: Stage, library: Path) -> None:
    """A session says at each entry whether a return is wanted; other return probes are in all who have the library."""
    stage.maps_file(1, library)
    stage.settle()

    assert not any(at_return for _, at_return in programs(stage))
    assert programs(stage) in ([("on_tls_call", False)], [("on_tls_entry", False), ("on_tls_return", False)])


def test_the_kernel_tells_of_every_mapping_of_what_switches_stacks(stage: Stage, tmp_path: Path) -> None:
    """A process that maps it after the first one did must not get return probes either."""
    switcher = tmp_path / "_greenlet.cpython-311.so"
    switcher.write_bytes(b"")
    stage.maps_file(1, switcher)
    stage.settle()

    assert [switcher.stat().st_ino] == [int.from_bytes(key[:8], "little") for key in stage.maps["mapped_files"]]


def test_a_library_that_was_replaced_is_told(stage: Stage, library: Path) -> None:
    """Its processes run what is no longer there: nothing is attached to what took its place."""
    old = mapped(library)
    stage.maps_file(1, library)
    stage.settle()
    stage.exit(1)
    stage.wait()
    stage.processes.mapped[2] = [old]
    stage.watch.look_at(2)
    library.rename(library.with_suffix(".old"))
    copy_of_library(library)

    stage.settle()

    assert [] == stage.kernel.attached
    assert [f"TLS of {library} is not seen: it was replaced while processes run it: restart them"] == troubles(
        stage.watch.libraries
    )


def test_what_the_kernel_refuses_is_told_and_leaves_nothing(stage: Stage, library: Path) -> None:
    stage.kernel.refused = NAMES

    stage.maps_file(1, library)
    stage.settle()

    assert [f"TLS of {library} is not seen: cannot attach: Operation not supported"] == troubles(stage.watch.libraries)


def test_programs_that_cannot_be_loaded_are_told_and_leave_nothing(stage: Stage, library: Path) -> None:
    stage.kernel.unloadable = NAMES

    stage.maps_file(1, library)
    stage.settle()

    why = "the kernel refuses the program on_tls_return"
    assert [f"TLS of {library} is not seen: {why}"] == troubles(stage.watch.libraries)
    assert {} == stage.maps["tls_layouts"]


def test_a_library_that_cannot_be_read_is_told(stage: Stage, library: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)

    stage.maps_file(1, library)
    stage.settle()

    (line,) = troubles(stage.watch.libraries)
    assert line.startswith(f"TLS of {library} is not seen: it is no ELF file that can be read: ")


def test_a_process_that_ends_while_its_library_is_looked_into_leaves_nothing(stage: Stage, library: Path) -> None:
    stage.maps_file(1, library)
    stage.exit(1)
    stage.settle()
    assert [] == stage.kernel.attached

    stage.wait()

    assert {} == stage.maps["mapped_files"]
    assert [] == stage.watch.libraries


def test_processes_that_are_shorter_than_a_look_into_their_library_meet_its_probes(stage: Stage, library: Path) -> None:
    """The first one's library is known when the second comes: curl lives for 20 ms."""
    stage.maps_file(1, library)
    stage.exit(1)
    stage.settle()

    stage.maps_file(2, library)

    assert {library.stat().st_ino} == {one.inode for one in stage.kernel.attached}
    assert stage.watch.fileno() < 0


def test_another_process_of_the_same_file_is_looked_at_when_the_first_has_ended(stage: Stage, library: Path) -> None:
    """The kernel tells of it no second time."""
    stage.maps_file(3, Path("/bin/true"))  # keeps the inspector busy
    stage.maps_file(1, library)
    stage.maps_file(2, library)
    stage.processes.mapped.pop(1)
    stage.settle()

    assert {library.stat().st_ino} == {one.inode for one in stage.kernel.attached}


def test_a_process_that_maps_the_file_while_it_is_looked_into_uses_it(stage: Stage, library: Path) -> None:
    """Of that mapping the kernel does not tell: it has told of the file, and nobody has asked for more yet."""
    stage.maps_file(2, Path("/bin/true"))
    stage.maps_file(1, library)
    stage.processes.mapped[2].append(mapped(library))
    stage.settle()

    stage.exit(1)
    stage.wait()

    assert stage.kernel.attached


def test_more_libraries_than_there_is_room_for_are_told(
    stage: Stage, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that is given back is used again."""
    stage.watch._free_indexes = [7]
    other = copy_of_library(tmp_path / "another.so")
    stage.maps_file(1, library)
    stage.settle()
    stage.maps_file(2, other)
    stage.settle()
    assert [f"TLS of {other} is not seen: too many"] == troubles(stage.watch.libraries)

    stage.exit(1)
    stage.exit(2)
    stage.wait()
    stage.maps_file(3, other)
    stage.settle()

    assert [] == troubles(stage.watch.libraries)
    assert {other.stat().st_ino} == {one.inode for one in stage.kernel.attached}


def go_program(path: Path, monkeypatch: pytest.MonkeyPatch, found: GoTls) -> Path:
    path.write_bytes(b"\0crypto/tls.(*Conn).Write\0")
    monkeypatch.setattr(go_library, "inspect", lambda file: found)
    return path


def test_a_go_program_has_probes_within_its_functions_and_none_at_a_return(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no layout; with it gone, so are they."""
    stage.maps_file(7, go_program(tmp_path / "shop", monkeypatch, GoTls("1.26", 10, 20, 40)))
    stage.settle()

    places = {one.program: [place.offset for place in one.places] for one in stage.kernel.attached}
    assert {"on_go_write": [10], "on_go_written": [20], "on_go_read": [40]} == places
    assert {False} == {one.at_return for one in stage.kernel.attached}
    assert {} == stage.maps["tls_layouts"]
    stage.exit(7)
    stage.wait()
    assert [] == stage.kernel.attached
