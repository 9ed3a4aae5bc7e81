"""Where to put probes on crypto/tls in a Go program; found without running it.

In:   an ELF file that the Go linker made, 1.21 and later, stripped or not
Out:  GoTls; NoTlsError, or UnreadableTlsError that says what stands in the way
Owns: nothing

Go moves stacks: a return probe ends the program, and a probe on a function's first instruction hits twice when the
stack has to grow. So probes are at instructions within functions alone, and at those that the kernel emulates:

  write    `push rbp` of (*Conn).Write, behind the look at the stack's room; arguments are in their registers still
  written  the first jump or call behind the call of writeRecordLocked in it: the socket has taken what was written, or
           the error, in its register still, says that it has not
  read     the call of memmove in (*Conn).Read that copies plain text out: what was read, and how much

What Write and Read are made of is checked as far as the probes rely on it; another make gives no probe.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from iced_x86 import Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register, RegisterExt

from otel_ebpf.probe.elf_image import IMPOSSIBLE, UnreadableTlsError
from otel_ebpf.probe.go_image import GoImage, NoGoError
from otel_ebpf.probe.tls_functions import GoTls
from otel_ebpf.probe.tls_library import NoTlsError

OLDEST = (1, 21)  # with frame pointers as they are read here
_WRITE, _READ = "crypto/tls.(*Conn).Write", "crypto/tls.(*Conn).Read"
_WRITE_RECORD, _COPY = "crypto/tls.(*Conn).writeRecordLocked", "runtime.memmove"
_ARGUMENTS = frozenset({Register.RAX, Register.RBX, Register.RCX, Register.RDI})
_PROLOGUE_BYTES = 64
_FIRST_ARGUMENT = 16  # from the frame pointer: behind that and the return address
_JUMPS = frozenset({FlowControl.CONDITIONAL_BRANCH, FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CALL})


def inspect(file: BinaryIO) -> GoTls:
    try:
        return _inspect(GoImage(file))
    except NoGoError as error:
        raise NoTlsError from error
    except IMPOSSIBLE as error:
        raise UnreadableTlsError(f"it is no ELF file that can be read: {error}") from error


def _inspect(image: GoImage) -> GoTls:
    functions = image.functions((_WRITE, _READ, _WRITE_RECORD, _COPY))
    if _WRITE not in functions and _READ not in functions:
        raise NoTlsError
    version = ".".join(map(str, image.version))
    if image.version < OLDEST:
        raise UnreadableTlsError(f"it is made by Go {version}; {'.'.join(map(str, OLDEST))} is the first that is read")
    if lacking := {_WRITE, _READ, _WRITE_RECORD, _COPY} - functions.keys():
        raise UnreadableTlsError(f"it is made by Go {version} without {', '.join(sorted(lacking))}")
    write, read = (list(image.code(*functions[name])) for name in (_WRITE, _READ))
    copies = calls(read, functions[_COPY][0])
    if len(copies) != 1 or not _keeps_first_argument(read):
        raise UnreadableTlsError(f"its (*Conn).Read is not as Go {version} makes it: perhaps without optimisation")
    sent = _behind_last_call(write, functions[_WRITE_RECORD][0])
    begun = push_of("(*Conn).Write", write)
    return GoTls(version, image.offset(begun), image.offset(sent), image.offset(copies[0].ip))


def push_of(name: str, code: Iterable[Instruction]) -> int:
    """The `push rbp` of a function whose arguments nothing has touched before."""
    for instruction in _prologue(code):
        if instruction.code == Code.PUSH_R64 and instruction.op0_register == Register.RBP:
            return instruction.ip
        if written(instruction) & _ARGUMENTS:
            break
    raise UnreadableTlsError(f"{name} does not begin as Go's functions do")


def _keeps_first_argument(code: Iterable[Instruction]) -> bool:
    """Whether the first argument is stored in its own place, sixteen bytes above the frame pointer."""
    frame_bytes, has_frame_pointer = -1, False
    for instruction in _prologue(code):
        if instruction.mnemonic == Mnemonic.SUB and instruction.op0_register == Register.RSP:
            frame_bytes = instruction.immediate(1)
        elif instruction.code in (Code.MOV_R64_RM64, Code.MOV_RM64_R64) and (
            (instruction.op0_register, instruction.op1_register) == (Register.RBP, Register.RSP)
        ):
            has_frame_pointer = frame_bytes < 0
        elif instruction.code == Code.MOV_RM64_R64 and instruction.op1_register == Register.RAX:
            is_on_stack = instruction.memory_base == Register.RSP and instruction.memory_index == Register.NONE
            if is_on_stack and instruction.memory_displacement == frame_bytes + _FIRST_ARGUMENT:
                return has_frame_pointer
        elif Register.RAX in written(instruction):
            break
    return False


def _prologue(code: Iterable[Instruction]) -> Iterator[Instruction]:
    """Up to where the function's own work may branch; the first branch is that to more stack."""
    first = None
    for instruction in code:
        first = instruction.ip if first is None else first
        if instruction.ip - first >= _PROLOGUE_BYTES:
            return
        if instruction.flow_control not in (FlowControl.NEXT, FlowControl.CONDITIONAL_BRANCH):
            return
        yield instruction


def _behind_last_call(code: list[Instruction], function: int) -> int:
    """Of the function, the first instruction behind its call that the kernel emulates."""
    places = [place for place, call in enumerate(code) if calls([call], function)]
    whole = [place for place in places if not _passes_one_byte(code[:place])]
    if len(whole) == 1:
        for instruction in code[whole[0] + 1 :]:
            if _is_emulated(instruction):
                return instruction.ip
            if instruction.flow_control != FlowControl.NEXT or Register.RBX in written(instruction):
                break
    raise UnreadableTlsError("(*Conn).Write does not end as Go's does")


def _passes_one_byte(before: list[Instruction]) -> bool:
    """TLS 1.0 sends the first byte of a call by itself: the fourth argument, its length, is the constant 1."""
    for instruction in reversed(before):
        if Register.RDI in written(instruction):
            return instruction.code == Code.MOV_R32_IMM32 and instruction.immediate(1) == 1
    return False


def calls(code: Iterable[Instruction], function: int) -> list[Instruction]:
    return [one for one in code if one.code == Code.CALL_REL32_64 and one.near_branch_target == function]


def _is_emulated(instruction: Instruction) -> bool:
    """By arch/x86/kernel/uprobes.c, branch_setup_xol_ops."""
    is_jump = instruction.flow_control in _JUMPS
    return is_jump and (
        instruction.is_jcc_short_or_near or instruction.is_jmp_short_or_near or instruction.is_call_near
    )


def written(instruction: Instruction) -> set[int]:
    return {
        RegisterExt.full_register(used.register)
        for used in InstructionInfoFactory().info(instruction).used_registers()
        if used.access not in (OpAccess.READ, OpAccess.COND_READ)
    }
