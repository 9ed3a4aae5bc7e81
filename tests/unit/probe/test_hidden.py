"""What hides traffic, found in a /proc of ordinary files."""

from pathlib import Path

import pytest

from otel_ebpf.probe.discovery import Target
from otel_ebpf.probe.hidden import MAX_FINDINGS, MAX_PIDS, HiddenTraffic
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.records.frames import MAX_FRAME_BYTES, decode_frame, encode_frame
from otel_ebpf.records.kinds import Hidden
from tests.unit.probe.fake_proc import FakeProc, FakeProcess

SECOND_NS = 1_000_000_000
LIBSSL = "/usr/lib/x86_64-linux-gnu/libssl.so.3"


def nothing_read(pid: int) -> set[bytes]:
    return set()


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def targets_of(proc: FakeProc, service_pid: int) -> dict[int, Target]:
    return {pid: Target(pid, service_pid, "asked for", process.start_ticks) for pid, process in proc.processes.items()}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (LIBSSL, "libssl.so.3"),
        ("/opt/app/libssl-3e69114b.so.1.1 (deleted)", "libssl-3e69114b.so.1.1"),
        ("/usr/lib/libssl3.so", "libssl3.so"),
        ("/usr/lib/libgnutls.so.30.34.3", "libgnutls.so.30.34.3"),
        ("/usr/lib/libmbedtls.so.14", "libmbedtls.so.14"),
        ("/opt/java/lib/server/libjvm.so", "libjvm.so"),
    ],
)
def test_a_library_for_tls_is_named_as_its_file_is(proc: FakeProc, path: str, name: str):
    proc.add(FakeProcess(7, libraries=("/lib/libc.so.6", path)))

    assert {name.encode()} == Procfs(str(proc.root)).tls_libraries(7)


@pytest.mark.parametrize("path", ["/lib/libc.so.6", "/srv/libssl.so.3/data", "/srv/libssl.txt", "/lib/libcrypto.so.3"])
def test_another_file_is_no_library_for_tls(proc: FakeProc, path: str):
    """libcrypto alone does not speak TLS."""
    proc.add(FakeProcess(7, libraries=(path,)))

    assert set() == Procfs(str(proc.root)).tls_libraries(7)


def test_a_name_across_two_readings_of_a_long_map_is_found_once(proc: FakeProc):
    """/proc/PID/maps comes in pieces."""
    for length in range(1, 200, 7):
        filler = ["/lib/" + "x" * length] * 300
        proc.add(FakeProcess(7, libraries=(*filler, LIBSSL, *filler)))
        assert {b"libssl.so.3"} == Procfs(str(proc.root)).tls_libraries(7)


def test_each_finding_has_the_processes_that_it_was_made_in(proc: FakeProc, tmp_path: Path):
    old = tmp_path / "old"
    old.write_bytes(b"\x7fELF\x01\x01\x01")
    proc.add(FakeProcess(7, libraries=(LIBSSL,)))
    proc.add(FakeProcess(8, libraries=(LIBSSL,), has_io_uring=True))
    proc.add(FakeProcess(9, executable=str(old)))
    proc.add(FakeProcess(10))

    found = HiddenTraffic(Procfs(str(proc.root)), nothing_read).look(targets_of(proc, 7), 0)

    assert [Hidden(7, {"tls libssl.so.3": (7, 8), "io_uring": (8,), "32-bit": (9,)})] == found


def test_from_hooks_that_see_every_call_only_tls_hides_anything(proc: FakeProc, tmp_path: Path):
    old = tmp_path / "old"
    old.write_bytes(b"\x7fELF\x01\x01\x01")
    proc.add(FakeProcess(7, libraries=(LIBSSL,), has_io_uring=True))
    proc.add(FakeProcess(8, executable=str(old)))

    found = HiddenTraffic(Procfs(str(proc.root)), nothing_read, sees_every_call=True).look(targets_of(proc, 7), 0)

    assert [Hidden(7, {"tls libssl.so.3": (7,)})] == found


def test_a_library_whose_tls_is_read_hides_nothing(proc: FakeProc):
    proc.add(FakeProcess(7, libraries=(LIBSSL, "/usr/lib/libgnutls.so.30")))
    proc.add(FakeProcess(8, libraries=(LIBSSL,)))
    read = {7: {b"libssl.so.3"}, 8: set[bytes]()}

    found = HiddenTraffic(Procfs(str(proc.root)), lambda pid: read[pid]).look(targets_of(proc, 7), 0)

    assert [Hidden(7, {"tls libgnutls.so.30": (7,), "tls libssl.so.3": (8,)})] == found


def test_only_what_has_changed_is_told_and_nothing_found_is_nothing_told(proc: FakeProc):
    proc.add(FakeProcess(7))
    hidden = HiddenTraffic(Procfs(str(proc.root)), nothing_read)
    assert [] == hidden.look(targets_of(proc, 7), 0)

    proc.add(FakeProcess(7, libraries=(LIBSSL,)))
    assert [] == hidden.look(targets_of(proc, 7), SECOND_NS), "it was looked at a second ago"
    assert [Hidden(7, {"tls libssl.so.3": (7,)})] == hidden.look(targets_of(proc, 7), 3600 * SECOND_NS)
    assert [] == hidden.look(targets_of(proc, 7), 7200 * SECOND_NS)


def test_a_process_that_has_ended_is_named_no_more(proc: FakeProc):
    proc.add(FakeProcess(7))
    proc.add(FakeProcess(8, libraries=(LIBSSL,)))
    hidden = HiddenTraffic(Procfs(str(proc.root)), nothing_read)
    assert [Hidden(7, {"tls libssl.so.3": (8,)})] == hidden.look(targets_of(proc, 7), 0)
    proc.remove(8)

    assert [Hidden(7, {})] == hidden.look(targets_of(proc, 7), SECOND_NS)
    assert [] == hidden.look({}, SECOND_NS), "a service that has gone is told of by its end"


def test_of_many_processes_a_few_are_looked_at_at_a_time_and_all_in_the_end(proc: FakeProc):
    for pid in range(100, 150):
        proc.add(FakeProcess(pid, libraries=(LIBSSL,)))
    hidden = HiddenTraffic(Procfs(str(proc.root)), nothing_read)
    counts = []
    for tick in range(5):
        for told in hidden.look(targets_of(proc, 100), tick * SECOND_NS):
            counts.append(len(told.found["tls libssl.so.3"]))

    assert [16, 32, 48, 50] == counts


def test_whatever_a_process_calls_its_files_the_other_findings_stand_first(proc: FakeProc):
    proc.add(FakeProcess(7, libraries=tuple(f"/x/libssl{number}.so" for number in range(5000)), has_io_uring=True))
    (told,) = HiddenTraffic(Procfs(str(proc.root)), nothing_read).look(targets_of(proc, 7), 0)

    assert MAX_FINDINGS == len(told.found)
    assert "io_uring" == next(iter(told.found))


def test_the_longest_finding_fits_into_a_frame():
    """Of the greatest number that Linux gives to a process."""
    longest = Hidden(
        4_194_304,
        {f"tls libssl{number:060}.so.{'9' * 19}": (4_194_304,) * MAX_PIDS for number in range(MAX_FINDINGS)},
    )
    packet = encode_frame(longest)

    assert len(packet) <= MAX_FRAME_BYTES
    assert longest == decode_frame(packet)
