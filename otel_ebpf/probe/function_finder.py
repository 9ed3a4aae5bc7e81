"""Where a function begins and ends; found without running it.

In:   an ELF file, the name that it exports
Out:  FunctionPlaces; None when it has no such function that can be probed
Owns: nothing

No return probe: on getaddrinfo it would be set in every process of the host, and it ends those that switch stacks. Instead, an instruction
shortly before the function returns is probed, on the way that all take: most programs are compiled with stack
protectors, whose jump is one that the kernel emulates.
"""

from typing import BinaryIO

from elftools.elf.elffile import ELFFile
from iced_x86 import (
    Code,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from otel_ebpf.probe.elf_image import IMPOSSIBLE, ElfImage, UnreadableTlsError, cheap_place
from otel_ebpf.probe.function_places import FunctionEnd, FunctionPlaces

_MAX_FUNCTION_BYTES = 65536
_MAX_ENDS = 8
# RESULT_IN_ in bpf/lookup_calls.c
_RESULT_IN = {
    Register.RAX: 0,
    Register.RBX: 1,
    Register.RBP: 2,
    Register.R12: 3,
    Register.R13: 4,
    Register.R14: 5,
    Register.R15: 6,
}


def find_function(file: BinaryIO, name: str) -> FunctionPlaces | None:
    try:
        elf = ELFFile(file)
        image = ElfImage(elf, [name])
        if elf["e_machine"] != "EM_X86_64" or name not in image:
            return None
        code = list(image.code(name, _MAX_FUNCTION_BYTES))
        found = [_end(code, at) for at, one in enumerate(code) if one.flow_control == FlowControl.RETURN]
        if not 0 < len(found) <= _MAX_ENDS:
            return None
        ends = [FunctionEnd(image.offset(ip), result, is_emulated) for ip, result, is_emulated in found]
        place = cheap_place(iter(code))
        begin = image.address(name) if place is None else place
        return FunctionPlaces(image.offset(begin), place is not None, tuple(ends))
    except (UnreadableTlsError, *IMPOSSIBLE):
        return None


def _end(code: list[Instruction], at: int) -> tuple[int, int, bool]:
    """The last jump before the return that goes on to it, if nothing comes in between from elsewhere, and what holds the
    result meanwhile is known; else the return itself."""
    facts = InstructionInfoFactory()
    targets = {one.near_branch_target for one in code if one.op_count and one.op0_kind == OpKind.NEAR_BRANCH64}
    holder = Register.RAX
    for before in range(at - 1, -1, -1):
        if code[before + 1].ip in targets:
            break
        instruction = code[before]
        if instruction.flow_control == FlowControl.CONDITIONAL_BRANCH and holder in _RESULT_IN:
            return instruction.ip, _RESULT_IN[holder], True
        if instruction.flow_control != FlowControl.NEXT:
            break
        if _is_move_to(holder, instruction):
            holder = RegisterExt.full_register(instruction.op1_register)
        elif holder in _written(instruction, facts):
            break
    return code[at].ip, _RESULT_IN[Register.RAX], False


def _is_move_to(holder: int, instruction: Instruction) -> bool:
    is_move = instruction.code in (Code.MOV_R32_RM32, Code.MOV_RM32_R32, Code.MOV_R64_RM64, Code.MOV_RM64_R64)
    is_of_registers = is_move and OpKind.REGISTER == instruction.op0_kind == instruction.op1_kind
    return is_of_registers and RegisterExt.full_register(instruction.op0_register) == holder


def _written(instruction: Instruction, facts: InstructionInfoFactory) -> set[int]:
    return {
        RegisterExt.full_register(used.register)
        for used in facts.info(instruction).used_registers()
        if used.access not in (OpAccess.READ, OpAccess.COND_READ)
    }
