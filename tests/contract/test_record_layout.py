"""The structs that cross from the kernel are the same in C and in Python, byte for byte."""

import re
import struct
import subprocess
from pathlib import Path

import pytest

from otel_ebpf.probe.leaving import CONNECTION_PID
from otel_ebpf.probe.ledger import COUNTS
from otel_ebpf.probe.maps import TARGET
from otel_ebpf.records import layouts
from otel_ebpf.records.decode import decode_process_event
from otel_ebpf.records.kinds import (
    LINK_MAY_ERR,
    Counter,
    EndReason,
    Kind,
    LinkEvidence,
    LookupKind,
    ProcessEvent,
    ProcessEventKind,
    Record,
    RecordFlag,
)
from otel_ebpf.records.progress import Progress

BPF = Path(__file__).parents[2] / "bpf"
TYPES = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
"""
STRUCTS = {
    "record": layouts.RECORD,
    "progress": layouts.PROGRESS,
    "process_event": layouts.PROCESS_EVENT,
    "lookup": layouts.LOOKUP,
}


def members_of(struct_name: str) -> list[tuple[str, int]]:
    """Name and array length (1: none) of each member, in order."""
    text = re.sub(r"//[^\n]*", "", (BPF / "records.h").read_text())
    body = re.search(rf"struct {struct_name} {{(.*?)}};", text, re.DOTALL)
    assert body is not None
    return [(name, int(length or 1)) for name, length in re.findall(r"u(?:8|16|32|64) (\w+)(?:\[(\d+)\])?;", body[1])]


def run_c(tmp_path: Path, program: str) -> str:
    """Compiles with no padding allowed and every warning an error."""
    source, binary = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(program)
    command = ["cc", "-Wall", "-Wextra", "-Wpadded", "-Werror", f"-I{BPF}", str(source), "-o", str(binary)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout


def offsets_in_python(layout: struct.Struct) -> list[int]:
    """Where each field of a format begins."""
    codes = re.findall(r"(\d*)([A-Za-z])", layout.format)
    expanded = [code if code[1] == "s" else ("", code[1]) for code in codes for _ in range(repeats(code))]
    formats = ["<" + "".join(count + kind for count, kind in expanded[:index]) for index in range(len(expanded))]
    return [struct.calcsize(text) for text in formats]


def repeats(code: tuple[str, str]) -> int:
    return 1 if code[1] == "s" or not code[0] else int(code[0])


@pytest.mark.parametrize("name", STRUCTS)
def test_every_field_stands_where_python_reads_it(name: str, tmp_path: Path):
    members = members_of(name)
    prints = "".join(f'printf("%zu\\n", offsetof(struct {name}, {member}));' for member, _ in members)
    program = f'{TYPES}#include "records.h"\nint main(void) {{ {prints} printf("%zu\\n", sizeof(struct {name})); }}'

    printed = [int(line) for line in run_c(tmp_path, program).split()]

    assert [*offsets_in_python(STRUCTS[name]), STRUCTS[name].size] == printed


def test_the_record_of_python_names_the_fields_of_c_in_their_order():
    """The payload follows the struct and has no field of its own."""
    assert [*(name for name, _ in members_of("record")), "payload"] == list(Record._fields)


def test_the_process_event_of_python_names_the_fields_of_c():
    assert [name for name, _ in members_of("process_event")] == list(ProcessEvent._fields)


def test_the_progress_of_python_has_every_field_of_c_but_its_key():
    named = {name.removeprefix("is_") for name in Progress._fields}

    assert {name for name, _ in members_of("progress")} - {"connection", "unused", "unused_too"} == named


@pytest.mark.parametrize(
    ("enum", "prefix"),
    [
        (Kind, "RECORD_"),
        (LinkEvidence, "LINK_"),
        (LookupKind, "RECORD_"),
        (EndReason, "END_"),
        (RecordFlag, "FLAG_"),
        (ProcessEventKind, "PROCESS_"),
        (Counter, "COUNT_"),
    ],
)
def test_constants_have_the_same_numbers(enum: type, prefix: str, tmp_path: Path):
    prints = "".join(f'printf("%d\\n", {prefix}{name});' for name in enum.__members__)

    printed = run_c(tmp_path, f'{TYPES}#include "records.h"\nint main(void) {{ {prints} }}')

    assert [int(member) for member in enum.__members__.values()] == [int(line) for line in printed.split()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    ["PROGRESS_SLOTS", "REQUEST_CAPTURE_BYTES", "RESPONSE_CAPTURE_BYTES", "LATE_CAPTURE_BYTES", "MAX_HEAD_BYTES"],
)
def test_sizes_are_the_same(name: str, tmp_path: Path):
    printed = run_c(tmp_path, f'{TYPES}#include "limits.h"\nint main(void) {{ printf("%d\\n", {name}); }}')

    assert getattr(layouts, name) == int(printed)


def test_the_mark_of_a_link_that_may_err_is_the_same(tmp_path: Path):
    printed = run_c(tmp_path, f'{TYPES}#include "records.h"\nint main(void) {{ printf("%d\\n", LINK_MAY_ERR); }}')

    assert int(printed) == LINK_MAY_ERR


def test_the_mark_of_a_time_at_which_nothing_was_sent_is_the_same(tmp_path: Path):
    printed = run_c(tmp_path, f'{TYPES}#include "records.h"\nint main(void) {{ printf("%llu\\n", PROGRESS_UNSENT); }}')

    assert int(printed) == layouts.PROGRESS_UNSENT


def test_the_ledger_has_a_place_for_each_counter(tmp_path: Path):
    printed = run_c(tmp_path, f'{TYPES}#include "records.h"\nint main(void) {{ printf("%d\\n", COUNTERS); }}')

    assert len(Counter) == int(printed)
    assert "struct ledger_entry {\n  u64 counts[COUNTERS];" in (BPF / "maps.h").read_text()
    assert 8 * len(Counter) == COUNTS.size


def test_the_target_that_the_probe_writes_is_the_one_that_the_kernel_reads():
    text = re.sub(r" *//[^\n]*", "", (BPF / "maps.h").read_text())

    assert "struct target {\n  u32 service_pid;\n  u32 flags;" in text
    assert "<II" == TARGET.format


def test_who_has_an_exchange_in_hand_is_where_the_probe_looks_for_it():
    text = re.sub(r" *//[^\n]*", "", (BPF / "maps.h").read_text())
    body = re.search(r"struct connection {(.*?)  u32 pid;", text, re.DOTALL)

    assert body is not None
    before = re.findall(r"(u32|u64) \w+;", body[1])
    assert len(before) == body[1].count(";")
    assert CONNECTION_PID.size - 4 == sum({"u32": 4, "u64": 8}[kind] for kind in before)


@pytest.mark.parametrize("kind", ProcessEventKind)
def test_every_kind_of_process_event_can_be_read(kind: ProcessEventKind):
    event = ProcessEvent(kind, 7, 5, 80, 1, b"shop".ljust(16, b"\0"), 2, 3)
    data = layouts.PROCESS_EVENT.pack(*event)

    assert event._replace(command=b"shop") == decode_process_event(data, 0, len(data))
