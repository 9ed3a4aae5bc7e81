"""What is found in CPython without running it. tests/kernel shows that it is right where it runs."""

import _queue
import ctypes
import io
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import greenlet
import pytest
from elftools.elf.elffile import ELFFile
from iced_x86 import FlowControl, Instruction, Mnemonic, Register

from otel_ebpf.probe import greenlet_library, queue_library
from otel_ebpf.probe.cheap_places import spot_of, value_places
from otel_ebpf.probe.elf_image import ElfImage
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.python_findings import PythonLibrary
from otel_ebpf.probe.python_library import NoPythonError, UnreadablePythonError, inspect

EMULATED = (FlowControl.CALL, FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH)
# Makers of objects. CPython's is like the first: one of a list of free ones, or a new one, or 0.
MAKERS = r"""
#include <stdlib.h>
struct object { long count; void *type; struct object *next; };
struct object *free_ones;
int free_count;
void note(struct object *made);
struct object *make(void *next) {
  struct object *made;
  if (free_count) {
    made = free_ones;
    free_ones = made->next;
    free_count--;
    note(made);
  } else {
    made = malloc(sizeof *made);
    if (!made) return NULL;
    made->type = &free_ones;
  }
  made->next = next;
  return made;
}
struct object *pass_on(struct object **given) { return *given; }
int receive(struct object **place);
struct object *hand_over(void) {
  struct object *handed = NULL;
  if (receive(&handed) < 0) return NULL;
  return handed;
}
"""


@pytest.fixture(scope="module")
def interpreter() -> tuple[Path, PythonLibrary]:
    """That which runs this test."""
    for mapped in Procfs().mapped_files(os.getpid()):
        path = Path(os.fsdecode(mapped.path))
        if "python3" in path.name and path.is_file():
            try:
                with path.open("rb") as file:
                    return path, inspect(file)
            except NoPythonError:
                continue
    raise AssertionError("no file of this process holds CPython")


def instruction_at(path: Path, library: PythonLibrary, offset: int) -> Instruction:
    with path.open("rb") as file:
        return next(ElfImage(ELFFile(file), ()).code_at(offset + library.code_shift, 16))


def test_each_place_is_an_instruction_that_the_kernel_emulates(interpreter: tuple[Path, PythonLibrary]) -> None:
    path, library = interpreter
    spots = [*library.births, library.death, library.entry]
    found = [instruction_at(path, library, offset) for offset, _ in spots]

    assert library.births
    assert [] == [str(one) for one in found if one.flow_control not in EMULATED and one.mnemonic != Mnemonic.PUSH]


def test_each_register_is_one_that_is_saved_whole(interpreter: tuple[Path, PythonLibrary]) -> None:
    """struct pt_regs begins with fifteen of them."""
    _, library = interpreter

    assert {0} == {register % 8 for _, register in library.births}
    assert all(0 <= register < 15 * 8 for _, register in (*library.births, library.death, library.entry))


def test_the_type_is_where_it_is_said_to_be(interpreter: tuple[Path, PythonLibrary]) -> None:
    """As this process has it: the code's place in the file and in memory are the same way apart."""
    path, library = interpreter
    (mapped,) = {one for one in Procfs().mapped_files(os.getpid()) if Path(os.fsdecode(one.path)) == path}
    code_shift = Procfs().code_shift(os.getpid(), mapped)
    assert code_shift is not None

    there = library.type_address - library.code_shift + code_shift

    assert ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "PyContext_Type")) == there


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> ElfImage:
    compiler = shutil.which("cc")
    assert compiler, "cc is not installed"
    folder = tmp_path_factory.mktemp("makers")
    (folder / "makers.c").write_text(MAKERS)
    options = ["-O2", "-shared", "-fPIC", "-fno-stack-protector", "-fcf-protection=none"]
    subprocess.run([compiler, *options, "-o", str(folder / "makers.so"), str(folder / "makers.c")], check=True)
    return ElfImage(ELFFile(io.BytesIO((folder / "makers.so").read_bytes())), ["make", "pass_on", "hand_over"])


def test_on_every_way_to_a_return_there_is_a_place(makers: ElfImage) -> None:
    """The free one and the new one are seen; where there is nothing, nothing is."""
    places = value_places(makers, makers.address("make"))

    assert places
    assert all(makers.address("make") <= address < makers.address("make") + 200 for address, _ in places)


def test_what_others_have_left_on_the_stack_is_looked_for_there(makers: ElfImage) -> None:
    """At the jump to where it is loaded, behind the call that left it: SimpleQueue.get of Python 3.13."""
    code = {one.ip: one for one in makers.code_at(makers.address("hand_over"), 60)}
    (load,) = [one for one in code.values() if one.mnemonic == Mnemonic.MOV and one.memory_base == Register.RSP][-1:]

    places = value_places(makers, makers.address("hand_over"))

    assert places
    assert [load.memory_displacement << 16] == [
        cookie & ~0xFFFF
        for address, cookie in (spot_of(makers, place) for place in places)
        if code[address + makers.address("hand_over") - makers.offset(makers.address("hand_over"))].next_ip == load.ip
    ]


def test_a_value_that_no_place_sees_has_none(makers: ElfImage) -> None:
    """It is read from memory and returned at once: all that is left would be a return probe."""
    assert None is value_places(makers, makers.address("pass_on"))


@pytest.mark.parametrize("name", ["libc.so.6", "libm.so.6"])
def test_another_library_holds_no_python(name: str) -> None:
    found = next(
        path
        for mapped in Procfs().mapped_files(os.getpid())
        if (path := Path(os.fsdecode(mapped.path))).name.startswith(name[:4])
    )
    with found.open("rb") as file, pytest.raises(NoPythonError):
        inspect(file)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(200), sys.version.encode()])
def test_what_is_no_elf_file_cannot_be_read(content: bytes) -> None:
    with pytest.raises((NoPythonError, UnreadablePythonError)):
        inspect(io.BytesIO(content))


def test_an_interpreter_that_is_cut_off_is_no_surprise(interpreter: tuple[Path, PythonLibrary]) -> None:
    """Wherever it ends."""
    content = interpreter[0].read_bytes()
    for part in range(1, 12):
        with pytest.raises((NoPythonError, UnreadablePythonError)):
            inspect(io.BytesIO(content[: len(content) * part // 40]))


def queue_file(interpreter: Path) -> Path:
    """A library of its own, or part of the interpreter."""
    return Path(getattr(_queue, "__file__", interpreter))


def test_the_queue_is_found_by_what_help_shows(interpreter: tuple[Path, PythonLibrary]) -> None:
    """Up to Python 3.12: what get() returns is in a register then, at places where a probe is cheap."""
    with queue_file(interpreter[0]).open("rb") as file:
        found = queue_library.inspect(file)

    assert found.gets
    assert all(0 <= register < 15 * 8 for _, register in (found.put, *found.gets))


def test_numbers_that_no_linker_writes_are_refused_in_one_line(interpreter: tuple[Path, PythonLibrary]) -> None:
    """What a container brings may be anything."""
    chance = random.Random(1)
    whole = {
        greenlet_library.inspect: Path(greenlet._greenlet.__file__).read_bytes(),  # type: ignore[attr-defined]
        queue_library.inspect: queue_file(interpreter[0]).read_bytes(),
    }
    refused = 0
    for look, content in whole.items():
        for _ in range(100):
            changed = bytearray(content)
            for _ in range(3):
                where = chance.choice([chance.randrange(4096), len(changed) - 1 - chance.randrange(4096)])
                changed[where : where + 8] = chance.randbytes(8)
            try:
                look(io.BytesIO(bytes(changed)))
            except UnreadablePythonError as error:
                refused += 1
                assert [str(error)] == str(error).splitlines()
            except (greenlet_library.NoGreenletError, queue_library.NoQueueError):
                refused += 1
    assert refused
