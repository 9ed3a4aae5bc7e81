"""Where to put probes in a TLS library, and where its objects keep what proves their socket; found without running it.

In:   an ELF file: OpenSSL 1.1.1, 3.x, BoringSSL, GnuTLS (see gnutls_library.py); a shared library, or an executable that holds one
Out:  TlsLibrary; NoTlsError, or UnreadableTlsError that says what stands in the way
Owns: nothing

A probe costs 0.5 us on an instruction that the kernel emulates (push, call) and 11 to 17 us on one that it has to
single-step, in a virtual machine. The public functions of OpenSSL 3 begin with the second kind, the internal ones
behind them with the first: those are found as what both SSL_read and SSL_read_ex call.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from elftools.elf.elffile import ELFFile
from iced_x86 import (
    Code,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    MemorySize,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from otel_ebpf.probe import gnutls_library
from otel_ebpf.probe.elf_image import IMPOSSIBLE, ElfImage, UnreadableTlsError, cheap_place, loads, offset_in_object
from otel_ebpf.probe.tls_functions import NO_STATE_POINTER, Function, Layout, TlsLibrary

_FIRST_BYTES = 32
_ARGUMENTS = {Register.RDI, Register.RSI, Register.RDX, Register.RCX}
_NAMES = (
    "SSL_read",
    "SSL_read_ex",
    "SSL_write",
    "SSL_write_ex",
    "SSL_sendfile",
    "SSL_get_client_random",
    "SSL_is_server",
    "SSL_get_rbio",
)
_BIO_1_1, _BIO_3 = (0x00, 0x30), (0x08, 0x38)  # struct bio_st: method and num, crypto/bio/bio_local.h
_X86_64 = "EM_X86_64"


class NoTlsError(Exception):
    """The file has no TLS library's functions."""


def inspect(file: BinaryIO) -> TlsLibrary:
    try:
        elf = ELFFile(file)
        image = ElfImage(elf, (*_NAMES, *gnutls_library.NAMES))
        is_openssl = "SSL_read" in image and "SSL_write" in image
        if not is_openssl and not gnutls_library.is_gnutls(image):
            raise NoTlsError
        if elf["e_machine"] != _X86_64:
            raise UnreadableTlsError(f"its machine is {elf['e_machine']}: x86-64 alone is read")
        if not is_openssl:
            return gnutls_library.inspect_gnutls(image)
        layout = _layout(image)
        functions = (
            *_functions(image, "SSL_read", is_write=False),
            *_functions(image, "SSL_write", is_write=True),
            *_sendfile(image),
        )
        return TlsLibrary(layout, functions)
    except IMPOSSIBLE as error:
        raise UnreadableTlsError(f"it is no ELF file that can be read: {error}") from error


def _layout(image: ElfImage) -> Layout:
    """By the two functions of the library that return what is wanted."""
    if "SSL_get_client_random" not in image or "SSL_is_server" not in image:
        raise UnreadableTlsError("it does not export SSL_get_client_random and SSL_is_server")
    state_pointer, random = _random(image.code("SSL_get_client_random"))
    server_flag, server_mask = _server_flag(image.code("SSL_is_server"))
    # The layout of a BIO is not OpenSSL's in its relatives, which have no SSL_read_ex.
    read_bio = _read_bio(image.code("SSL_get_rbio")) if {"SSL_get_rbio", "SSL_read_ex"} <= image.names else 0
    method, number = _BIO_1_1 if state_pointer != NO_STATE_POINTER else _BIO_3
    return Layout(state_pointer, random, server_flag, server_mask, read_bio, method, number)


def _read_bio(code: Iterator[Instruction]) -> int:
    for instruction in code:
        if loads(instruction, Register.RDI) and instruction.memory_displacement:
            return offset_in_object(instruction.memory_displacement)
    return 0


def _random(code: Iterator[Instruction]) -> tuple[int, int]:
    """The address that is copied from: in the object (first argument, rdi) or in what a pointer in it leads to."""
    holder, pointer = Register.RDI, NO_STATE_POINTER
    for instruction in code:
        if instruction.mnemonic == Mnemonic.LEA and instruction.memory_base == holder:
            return pointer, offset_in_object(instruction.memory_displacement)
        if loads(instruction, Register.RDI) and pointer == NO_STATE_POINTER:
            holder, pointer = instruction.op0_register, offset_in_object(instruction.memory_displacement)
        elif instruction.mnemonic == Mnemonic.ADD and instruction.op0_register == holder != Register.RDI:
            return pointer, offset_in_object(instruction.immediate(1))
    raise UnreadableTlsError("SSL_get_client_random does not say where the random is")


def _server_flag(code: Iterator[Instruction]) -> tuple[int, int]:
    """Offset and mask of a number of 32 bits that is not 0 in a server's object."""
    offset, mask = -1, 0xFFFFFFFF
    for instruction in code:
        is_read = instruction.memory_base == Register.RDI and instruction.mnemonic in (Mnemonic.MOV, Mnemonic.MOVZX)
        if is_read and instruction.memory_displacement:  # since 3.2 what is at 0 tells QUIC from TLS
            offset = offset_in_object(instruction.memory_displacement)
            mask = 0xFF if instruction.memory_size == MemorySize.UINT8 else 0xFFFFFFFF
        elif instruction.mnemonic == Mnemonic.AND and offset >= 0:
            mask &= instruction.immediate(1)
        elif instruction.mnemonic == Mnemonic.RET and offset >= 0:
            break
    if offset < 0:
        raise UnreadableTlsError("SSL_is_server does not say where its flag is")
    return offset, mask


def _functions(image: ElfImage, name: str, *, is_write: bool) -> list[Function]:
    internal = _internal(image, name)
    if internal is not None:
        place = cheap_place(image.code_at(internal.address, _FIRST_BYTES))
        if place is not None:
            results = _behind_calls(image, internal.address)
            return [Function(f"behind {name}", image.offset(place), is_write, internal.count_argument, True, results)]
    functions = []
    for public, count_argument in ((name, 0), (f"{name}_ex", 4)):
        if public in image:
            place = cheap_place(image.code(public))
            offset = image.offset(image.address(public) if place is None else place)
            functions.append(Function(public, offset, is_write, count_argument, place is not None, ()))
    return functions


def _sendfile(image: ElfImage) -> list[Function]:
    """The kernel encrypts what it sends."""
    name = "SSL_sendfile"
    if name not in image:
        return []
    place = cheap_place(image.code(name))
    offset = image.offset(image.address(name) if place is None else place)
    returns = tuple(image.offset(one.ip) for one in image.code(name) if one.flow_control == FlowControl.RETURN)
    return [Function(name, offset, True, 0, place is not None, returns, is_of_file=True)] if returns else []


class _Internal(NamedTuple):
    address: int
    count_argument: int


def _internal(image: ElfImage, name: str) -> _Internal | None:
    """What `name`_ex calls first, with its own arguments, and `name` calls too."""
    if f"{name}_ex" not in image:
        return None
    found = _first_call(image, f"{name}_ex")
    if found is None:
        return None
    is_shared = any(_is_call(one) and one.near_branch_target == found.address for one in image.code(name))
    return found if is_shared else None


def _behind_calls(image: ElfImage, address: int) -> tuple[int, ...]:
    """Places behind all calls of it; BIO_f_ssl of the same library does without the public functions.

    Not one when something jumps there, for then it returns to who knows whom.
    """
    references = list(image.references(address))
    return tuple(image.offset(one.next_ip) for one in references) if all(map(_is_call, references)) else ()


def _first_call(image: ElfImage, name: str) -> _Internal | None:
    """None when anything happens to the arguments before, but that the fourth becomes the fifth.

    Since OpenSSL 3.4 flags come before the count when writing, and one more function lies in between.
    """
    facts = InstructionInfoFactory()
    code, jumps, free, count_argument = image.code(name), 0, set[int](), 4
    while (instruction := next(code, None)) is not None:
        if _is_call(instruction):
            return _Internal(instruction.near_branch_target, count_argument)
        if instruction.flow_control == FlowControl.UNCONDITIONAL_BRANCH and not jumps:
            jumps, code = 1, image.code_at(instruction.near_branch_target, _FIRST_BYTES)
            continue
        if _moves(instruction, Register.R8, Register.RCX):
            count_argument, free = 5, {Register.RCX}
        written = {
            RegisterExt.full_register(used.register)
            for used in facts.info(instruction).used_registers()
            if used.access not in (OpAccess.READ, OpAccess.COND_READ)
        }
        if written & _ARGUMENTS - free or instruction.flow_control != FlowControl.NEXT:
            return None
    return None


def _moves(instruction: Instruction, to: int, source: int) -> bool:
    is_move = instruction.code in (Code.MOV_R64_RM64, Code.MOV_RM64_R64)
    return is_move and (instruction.op0_register, instruction.op1_register) == (to, source)


def _is_call(instruction: Instruction) -> bool:
    return instruction.mnemonic == Mnemonic.CALL and instruction.op0_kind == OpKind.NEAR_BRANCH64
