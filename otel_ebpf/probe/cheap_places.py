"""Where in a program's functions a probe costs little, and which register holds what is wanted there.

In:   the functions of an ELF file
Out:  places; UnreadableTlsError where there are none
Owns: nothing

A return probe costs twice as much as one on an instruction that the kernel emulates (a jump, a call, a push), and ends a
process that switches stacks. So what a function returns is followed backwards from its return, to such instructions
that between them are on every way there. A compiler may have it on the stack until shortly before: there, it is looked
for at the jump to where it is loaded. What is found may be wrong in a build that nobody has seen: whoever uses it
asks the value what it is.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator

from elftools.elf.elffile import ELFFile
from iced_x86 import (
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from otel_ebpf.probe.elf_image import ElfImage, UnreadableTlsError
from otel_ebpf.probe.python_findings import Spot

_R_X86_64_RELATIVE = 8
_RELOCATION = struct.Struct("<QQq")  # Elf64_Rela
_MAX_INSTRUCTIONS = 600
_MAX_BLOCK_BYTES = 1024
_MAX_DEPTH = 2  # of functions that return what another one returns
# Where struct pt_regs has them: arch/x86/include/asm/ptrace.h.
_REGISTERS = (
    Register.R15,
    Register.R14,
    Register.R13,
    Register.R12,
    Register.RBP,
    Register.RBX,
    Register.R11,
    Register.R10,
    Register.R9,
    Register.R8,
    Register.RAX,
    Register.RCX,
    Register.RDX,
    Register.RSI,
    Register.RDI,
)
# A place on the stack: so many bytes above where the stack pointer points. All registers have lower numbers.
_ON_STACK = 1 << 16
_STACK_POINTER_COOKIE, _IN_MEMORY_COOKIE = 152, 0x200  # where struct pt_regs has it
_BYTES_SHIFT = 16
_MAX_STACK_BYTES = 4096
_KEPT_BY_CALLS = {Register.RBX, Register.RBP, Register.R12, Register.R13, Register.R14, Register.R15}


Place = tuple[int, int]  # address; register, or _ON_STACK and so many bytes


def spot_of(image: ElfImage, place: Place) -> Spot:
    address, holder = place
    if holder >= _ON_STACK:
        cookie = _STACK_POINTER_COOKIE | _IN_MEMORY_COOKIE | (holder - _ON_STACK) << _BYTES_SHIFT
    else:
        cookie = 8 * _REGISTERS.index(holder)
    return image.offset(address), cookie


def pointers(elf: ELFFile) -> Iterator[tuple[int, int]]:
    """Address of each pointer that the loader will write, and what it will point to."""
    table = elf.get_section_by_name(".rela.dyn")
    content = b"" if table is None else table.data()
    for place, kind, value in _RELOCATION.iter_unpack(content[: len(content) - len(content) % _RELOCATION.size]):
        if kind == _R_X86_64_RELATIVE:
            yield place, value


def pointer_at(elf: ELFFile, image: ElfImage, slot: int) -> int:
    """As the file has it, or as the loader will write it there."""
    elf.stream.seek(image.offset(slot))
    address = int.from_bytes(elf.stream.read(8), "little")
    return address or next((value for place, value in pointers(elf) if place == slot), 0)


def argument_place(image: ElfImage, address: int, argument: int = Register.RDI) -> Place:
    """The first instruction that the kernel emulates, and which register holds the argument there: by default the first."""
    holders = {argument}
    for instruction in image.code_at(address, _MAX_BLOCK_BYTES):
        if _is_emulated(instruction) and holders:
            return instruction.ip, min(holders)
        if instruction.flow_control != FlowControl.NEXT:
            break
        copied = _held_before(instruction, instruction.op0_register) if _is_move(instruction) else None
        holders -= _written(instruction)
        if copied in holders:
            holders.add(instruction.op0_register)
    raise UnreadableTlsError("a function has no place where a probe is cheap")


def value_places(image: ElfImage, address: int, depth: int = _MAX_DEPTH) -> set[Place] | None:
    """On every way to a return one place at which a register holds what will be returned; None when there are none.

    What is 0 needs no place.
    """
    graph = _Graph(image, address, depth)
    places = graph.places(frozenset())
    if places is None:
        return None
    for place in sorted(places, reverse=True):
        # One that others stand before anyway.
        fewer = graph.places(frozenset({place}))
        if fewer is not None and fewer <= places:
            places = fewer
    return places


class _Graph:
    """The instructions of a function, with those that it goes on to by a jump, and which may come before which."""

    def __init__(self, image: ElfImage, address: int, depth: int) -> None:
        self._image, self._depth = image, depth
        self._instructions: dict[int, Instruction] = {}
        self._before: defaultdict[int, set[int]] = defaultdict(set)
        self._entry = address
        waiting = [address]
        while waiting:
            for instruction in self._block(image, waiting.pop()):
                self._instructions[instruction.ip] = instruction
                for after in _successors(instruction):
                    self._before[after].add(instruction.ip)
                    if after != instruction.next_ip:
                        waiting.append(after)
            if len(self._instructions) > _MAX_INSTRUCTIONS:
                raise UnreadableTlsError("a function is longer than any known one")

    def _block(self, image: ElfImage, address: int) -> Iterator[Instruction]:
        for instruction in image.code_at(address, _MAX_BLOCK_BYTES):
            if instruction.ip in self._instructions:
                return
            yield instruction
            if instruction.next_ip not in _successors(instruction):
                return

    def places(self, refused: frozenset[Place]) -> set[Place] | None:
        returns = [at for at, found in self._instructions.items() if found.flow_control == FlowControl.RETURN]
        waiting: list[Place] = [(at, Register.RAX) for at in returns]
        seen, found = set(waiting), set[Place]()
        while waiting:
            at, register = waiting.pop()
            if at == self._entry or not self._before[at]:
                return None
            for before in self._before[at]:
                instruction = self._instructions[before]
                held = _held_before(instruction, register)
                if held is None:
                    behind = self._returned_by(instruction, register)
                    if behind is None:
                        return None
                    found |= behind
                    continue
                place = (before, held)
                if held == Register.NONE or place in seen or place in found:
                    continue
                if _is_emulated(instruction) and place not in refused:
                    found.add(place)
                else:
                    seen.add(place)
                    waiting.append(place)
        return found if found else None

    def _returned_by(self, instruction: Instruction, register: int) -> set[Place] | None:
        """What another function of this file returns is looked for there."""
        is_call = instruction.flow_control == FlowControl.CALL and register == Register.RAX
        if not is_call or not self._depth or instruction.op0_kind != OpKind.NEAR_BRANCH64:
            return None
        return value_places(self._image, instruction.near_branch_target, self._depth - 1)


def _held_before(instruction: Instruction, register: int) -> int | None:
    """What holds it before this instruction, if `register` does behind it; NONE: it is 0; None: unknown."""
    if register >= _ON_STACK:  # what is done to memory, nobody follows: straight from a jump, or not at all
        is_jump = instruction.flow_control in (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH)
        return register if is_jump else None
    if instruction.flow_control in (FlowControl.CALL, FlowControl.INDIRECT_CALL):
        return register if register in _KEPT_BY_CALLS else None
    if register not in _written(instruction):
        return register
    if instruction.op0_kind != OpKind.REGISTER or RegisterExt.full_register(instruction.op0_register) != register:
        return None
    if _is_move(instruction):
        return instruction.op1_register if instruction.op1_register in _REGISTERS else None
    if _is_load_from_stack(instruction):
        return _ON_STACK + instruction.memory_displacement
    is_cleared = instruction.mnemonic == Mnemonic.XOR and instruction.op0_register == instruction.op1_register
    return Register.NONE if is_cleared else None


def _is_move(instruction: Instruction) -> bool:
    """From one register of 64 bits to another."""
    kinds = {instruction.op0_kind, instruction.op1_kind}
    return (
        instruction.mnemonic == Mnemonic.MOV and kinds == {OpKind.REGISTER} and instruction.op0_register in _REGISTERS
    )


def _is_load_from_stack(instruction: Instruction) -> bool:
    """Of 64 bits, from a place that the stack pointer alone tells."""
    return (
        instruction.mnemonic == Mnemonic.MOV
        and instruction.op1_kind == OpKind.MEMORY
        and instruction.op0_register in _REGISTERS
        and (instruction.memory_base, instruction.memory_index) == (Register.RSP, Register.NONE)
        and 0 <= instruction.memory_displacement < _MAX_STACK_BYTES
    )


def _successors(instruction: Instruction) -> tuple[int, ...]:
    flow = instruction.flow_control
    if flow == FlowControl.UNCONDITIONAL_BRANCH:
        return (instruction.near_branch_target,)
    if flow == FlowControl.CONDITIONAL_BRANCH:
        return (instruction.next_ip, instruction.near_branch_target)
    return (instruction.next_ip,) if flow in (FlowControl.NEXT, FlowControl.CALL, FlowControl.INDIRECT_CALL) else ()


def _is_emulated(instruction: Instruction) -> bool:
    if instruction.flow_control in (FlowControl.CALL, FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH):
        # Without prefixes: a call has five bytes, a jump two or five, a conditional one two or six.
        return instruction.op0_kind == OpKind.NEAR_BRANCH64 and instruction.len in (2, 5, 6)
    return instruction.mnemonic == Mnemonic.PUSH and instruction.op0_kind == OpKind.REGISTER


_FACTS = InstructionInfoFactory()
_READS: Iterable[int] = (OpAccess.READ, OpAccess.COND_READ)


def _written(instruction: Instruction) -> set[int]:
    used = _FACTS.info(instruction).used_registers()
    return {RegisterExt.full_register(one.register) for one in used if one.access not in _READS}
