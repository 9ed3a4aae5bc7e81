"""Where to put probes on goroutines that are started and that call, in a Go program; found without running it.

In:   an ELF file that the Go linker made, 1.21 and later, stripped or not
Out:  GoProgram; NoGoError, or UnreadableTlsError that says what stands in the way
Owns: nothing

  born        the call of runqput in runtime.newproc.func1, which every `go` statement comes to: the new goroutine, complete
  round_trip  `push rbp` of net/http's (*persistConn).roundTrip, in the goroutine that calls
  write       `push rbp` of net/http's persistConnWriter.Write, in the goroutine that writes what others ask
  handled     `push rbp` of net/http's serverHandler.ServeHTTP, in the goroutine that has read the request

Why there: see go_library.py. Where a goroutine keeps what is read of it, and a request its context, a table says by version;
the code of newproc1 and of (*conn).readRequest, which write what is read here, has to say the same, or nothing is told of the program.
"""

from collections.abc import Iterable
from typing import BinaryIO

from iced_x86 import Code, Instruction, OpKind, Register, RegisterExt

from otel_ebpf.probe.elf_image import IMPOSSIBLE, UnreadableTlsError
from otel_ebpf.probe.go_findings import GoProgram, Layout
from otel_ebpf.probe.go_image import GoImage
from otel_ebpf.probe.go_library import OLDEST, calls, push_of, written

_STARTS, _MAKES, _QUEUES = "runtime.newproc.func1", "runtime.newproc1", "runtime.runqput"
_ROUND_TRIP, _WRITE = "net/http.(*persistConn).roundTrip", "net/http.persistConnWriter.Write"
_HANDLES, _READS = "net/http.serverHandler.ServeHTTP", "net/http.(*conn).readRequest"
_LAYOUTS = {
    (1, 21): Layout(152, 272, 296, 232),
    (1, 22): Layout(152, 272, 296, 232),
    (1, 23): Layout(160, 280, 304, 248),
    (1, 24): Layout(160, 280, 304, 248),
    (1, 25): Layout(152, 272, 296, 248),
    (1, 26): Layout(152, 280, 304, 248),
    (1, 27): Layout(152, 280, 304, 248),
}


def inspect(file: BinaryIO) -> GoProgram:
    try:
        return _inspect(GoImage(file))
    except IMPOSSIBLE as error:
        raise UnreadableTlsError(f"it is no ELF file that can be read: {error}") from error


def _inspect(image: GoImage) -> GoProgram:
    version = ".".join(map(str, image.version))
    layout = _LAYOUTS.get(image.version)
    if layout is None:
        raise UnreadableTlsError(
            f"it is made by Go {version}; known are {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, max(_LAYOUTS)))}"
        )
    functions = image.functions((_STARTS, _MAKES, _QUEUES, _ROUND_TRIP, _WRITE, _HANDLES, _READS))
    if lacking := {_STARTS, _MAKES, _QUEUES} - functions.keys():
        raise UnreadableTlsError(f"it is made by Go {version} without {', '.join(sorted(lacking))}")
    births = calls(image.code(*functions[_STARTS]), functions[_QUEUES][0])
    if len(births) != 1 or not _writes(image.code(*functions[_MAKES]), layout):
        raise UnreadableTlsError(
            f"its goroutines are not made as Go {version} makes them: perhaps without optimisation"
        )
    born = image.offset(births[0].ip)
    if not {_ROUND_TRIP, _WRITE} & functions.keys():
        return GoProgram(layout, born, 0, 0, 0)
    if lacking := {_ROUND_TRIP, _WRITE} - functions.keys():
        raise UnreadableTlsError(f"it is made by Go {version} without {', '.join(sorted(lacking))}")
    round_trip, write = (push_of(name, image.code(*functions[name])) for name in (_ROUND_TRIP, _WRITE))
    found = GoProgram(layout, born, image.offset(round_trip), image.offset(write), 0)
    if not {_HANDLES, _READS} <= functions.keys():
        return found
    if not _keeps_context(image.code(*functions[_READS]), layout):
        raise UnreadableTlsError(f"its requests are not made as Go {version} makes them: perhaps without optimisation")
    return found._replace(handled=image.offset(push_of(_HANDLES, image.code(*functions[_HANDLES]))))


def _writes(code: Iterable[Instruction], layout: Layout) -> bool:
    """`newg.parentGoid = callergp.goid` and `newg.startpc = fn.fn`, each by way of a register."""
    came_from: dict[int, int] = {}  # what was read last into a register: at which offset
    copies = set()
    for instruction in code:
        source = came_from.get(instruction.op1_register) if instruction.op1_kind == OpKind.REGISTER else None
        if instruction.code == Code.MOV_RM64_R64 and instruction.op0_kind == OpKind.MEMORY and source is not None:
            copies.add((source, instruction.memory_displacement))
        for register in written(instruction):
            came_from.pop(register, None)
        if instruction.code == Code.MOV_R64_RM64 and instruction.op1_kind == OpKind.MEMORY and _has_base(instruction):
            came_from[RegisterExt.full_register(instruction.op0_register)] = instruction.memory_displacement
    return {(layout.number, layout.parent_number), (0, layout.start)} <= copies


def _keeps_context(code: Iterable[Instruction], layout: Layout) -> bool:
    """`req.ctx = ctx`: an interface value, which is two words."""
    written_at = {
        instruction.memory_displacement
        for instruction in code
        if instruction.code == Code.MOV_RM64_R64 and instruction.op0_kind == OpKind.MEMORY and _has_base(instruction)
    }
    return {layout.context, layout.context + 8} <= written_at


def _has_base(instruction: Instruction) -> bool:
    return instruction.memory_base not in (Register.NONE, Register.RIP, Register.RSP)
