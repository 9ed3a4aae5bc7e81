"""Where to put probes in a Node program, and where it keeps which callback runs; found without running it.

In:   an ELF file: an official build of Node, which has its symbols
Out:  NodeProgram; NoNodeError, or UnreadableTlsError that says what stands in the way
Owns: nothing

  made     `push rbp` of node::AsyncWrap::AsyncReset, which gives everything native that calls back its number

That function's own code says where numbers are kept: it goes from the object by its realm to the environment, takes
the next number there and writes it down. Tables of virtual functions say at which offset an object's bases are. So no
version has a table here; one whose code is not like that is refused.
"""

import struct
from collections.abc import Iterable
from typing import BinaryIO

from elftools.elf.elffile import ELFFile
from iced_x86 import Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, RegisterExt

from otel_ebpf.probe.elf_image import IMPOSSIBLE, ElfImage, UnreadableTlsError, cheap_place
from otel_ebpf.probe.node_findings import Layout, NodeProgram, Promises
from otel_ebpf.probe.node_promises import NAMES, find_promises

_RESET = "_ZN4node9AsyncWrap10AsyncResetEN2v85LocalINS1_6ObjectEEEd"
_RESETS = (_RESET, _RESET + "b")  # until 20 with `bool silent`
_SCHEDULE = "_ZN4node11Environment13ScheduleTimerEl"
_TCP, _PIPE, _TLS = "_ZTVN4node7TCPWrapE", "_ZTVN4node8PipeWrapE", "_ZTVN4node6crypto7TLSWrapE"
_PARSERS = ("_ZTVN4node11http_parser6ParserE", "_ZTVN4node12_GLOBAL__N_16ParserE")
_NAMES = (*_RESETS, _SCHEDULE, _TCP, _PIPE, _TLS, *_PARSERS, *NAMES)
_WORD = struct.Struct("<q")
_BEFORE_FUNCTIONS = 16  # bytes of a table: the offset to the object's top, and its type
_LAST_GIVEN = 16  # the last number that was given, among the numbers
_MOST_TABLE_BYTES, _MOST_OFFSET, _MOST_CODE_BYTES = 8192, 4096, 1024
_BUFFER_BYTES = 56  # an AliasedBuffer: what async_hooks counts stands before the numbers
_HANDLE_LOOP = 8  # in uv_handle_t
_FACTS = InstructionInfoFactory()


class NoNodeError(Exception):
    pass


def inspect(file: BinaryIO) -> NodeProgram:
    try:
        elf = ELFFile(file)
        return _inspect(elf, ElfImage(elf, _NAMES))
    except IMPOSSIBLE as error:
        raise UnreadableTlsError(f"it is no ELF file that can be read: {error}") from error


def _inspect(elf: ELFFile, image: ElfImage) -> NodeProgram:
    reset, parser = (next((name for name in names if name in image), "") for names in (_RESETS, _PARSERS))
    if not reset and _TCP not in image:
        raise NoNodeError
    if elf["e_machine"] != "EM_X86_64" or elf["e_type"] != "ET_EXEC":
        raise UnreadableTlsError("it is not built as nodejs.org builds it")
    lacking = [what for what, name in (("AsyncReset", reset), ("Parser", parser)) if not name]
    lacking += [name for name in (_SCHEDULE, _TCP, _PIPE, _TLS) if name not in image]
    if lacking:
        raise UnreadableTlsError(f"its symbols lack {', '.join(lacking)}")
    made = cheap_place(image.code(reset))
    if made is None:
        raise UnreadableTlsError("AsyncWrap::AsyncReset does not begin as functions do")
    handle, of_pipe = _bases(image, _TCP, 1), _bases(image, _PIPE, 1)
    if handle != of_pipe:
        raise UnreadableTlsError("its sockets and pipes are not alike")
    of_tls = _bases(image, _TLS, 2)
    tables = (image.address(name) + _BEFORE_FUNCTIONS for name in (_TCP, _PIPE, _TLS, parser))
    numbers = _numbers(image.code(reset, _MOST_CODE_BYTES))
    timer = _timer(image.code(_SCHEDULE))
    layout = Layout(
        **dict(zip(("tcp", "pipe", "tls", "parser"), tables, strict=True)),
        **dict(zip(("id", "realm", "environment", "ids"), numbers, strict=True)),
        hooks=numbers[-1] - _BUFFER_BYTES,
        loop=timer + _HANDLE_LOOP,
        stream_of_handle=handle[0],
        stream_of_tls=of_tls[0],
        listener_of_tls=of_tls[1],
        listener_of_parser=_bases(image, parser, 1)[0],
    )
    promises: Promises | None = None
    why_none = ""
    try:
        promises = find_promises(image)
    except UnreadableTlsError as error:
        why_none = str(error)
    return NodeProgram(layout, image.offset(made), promises, why_none)


def _bases(image: ElfImage, table: str, count: int) -> tuple[int, ...]:
    """Where an object has the bases behind its first one: each has a table behind the first one's."""
    address, size = image.extent(table)
    image_bytes = image.bytes_at(address, min(size, _MOST_TABLE_BYTES))
    words = (word for (word,) in _WORD.iter_unpack(image_bytes[: len(image_bytes) // 8 * 8]))
    found = tuple(-word for word in words if -_MOST_OFFSET < word < 0)
    if len(found) != count:
        raise UnreadableTlsError(f"{table} has {len(found)} tables, not {count}")
    return found


def _numbers(code: Iterable[Instruction]) -> tuple[int, int, int, int]:
    """`async_id_`, `realm_`, the realm's `env_`, and the environment's pointer to the numbers."""
    ways: dict[int, tuple[int, ...]] = {Register.RDI: ()}  # how each register's value is got at from the object
    written, read = list[int](), set[tuple[int, ...]]()
    for instruction in code:
        base = ways.get(instruction.memory_base)
        is_plain = base is not None and instruction.memory_index == Register.NONE
        offset = instruction.memory_displacement
        if is_plain and instruction.code == Code.MOVSD_XMMM64_XMM and base == ():
            written.append(offset)
        if is_plain and instruction.mnemonic == Mnemonic.ADDSD and offset == _LAST_GIVEN and base:
            read.add(base)
        way = None
        if is_plain and instruction.code == Code.MOV_R64_RM64 and base is not None:
            way = (*base, offset)
        elif instruction.mnemonic == Mnemonic.MOV and instruction.op1_kind == OpKind.REGISTER:
            way = ways.get(instruction.op1_register)
        for used in _FACTS.info(instruction).used_registers():
            if used.access not in (OpAccess.READ, OpAccess.COND_READ):
                ways.pop(RegisterExt.full_register(used.register), None)
        if way is not None and instruction.op0_kind == OpKind.REGISTER and len(way) < 4:
            ways[instruction.op0_register] = way
        if len(written) > 1 and read:
            break
    if len(read) != 1 or len(written) != 2 or written[1] != written[0] + 8:
        raise UnreadableTlsError("its numbers are not kept as any known version keeps them")
    (way,) = read
    if len(way) != 3 or not all(0 < offset < _MOST_OFFSET for offset in (*way, *written)):
        raise UnreadableTlsError("its numbers are not kept as any known version keeps them")
    return written[0], way[0], way[1], way[2]


def _timer(code: Iterable[Instruction]) -> int:
    """uv_timer_start(&timer_handle_, ...)"""
    for instruction in code:
        if instruction.mnemonic == Mnemonic.ADD and instruction.op0_register == Register.RDI:
            offset = instruction.immediate(1)
            if 0 < offset < _MOST_OFFSET:
                return int(offset)
    raise UnreadableTlsError("its timer is not kept as any known version keeps it")
