"""GnuTLS: where to put probes, and where its sessions keep what proves their socket.

In:   the image of a library that exports gnutls_record_recv
Out:  TlsLibrary, or UnreadableTlsError
Owns: nothing

gnutls_record_send and gnutls_record_send_file hand their bytes to gnutls_record_send2, which came with 3.6.3
(lib/record.c). What is not read: gnutls_record_recv_packet and _seq, which are there for datagrams.
"""

from collections.abc import Iterator

from iced_x86 import Code, Instruction, Mnemonic, Register

from otel_ebpf.probe.elf_image import ElfImage, UnreadableTlsError, cheap_place, offset_in_object
from otel_ebpf.probe.tls_functions import NO_STATE_POINTER, Function, Layout, TlsLibrary

NAMES = (
    "gnutls_record_recv",
    "gnutls_record_send",
    "gnutls_record_send2",
    "gnutls_session_get_random",
    "gnutls_session_is_resumed",
    "gnutls_transport_get_int",
)
_SERVER, _CLIENT = 1, 2  # of gnutls_init_flags_t, gnutls.h


def is_gnutls(image: ElfImage) -> bool:
    return "gnutls_record_recv" in image and "gnutls_record_send" in image


def inspect_gnutls(image: ElfImage) -> TlsLibrary:
    missing = [name for name in ("gnutls_session_get_random", "gnutls_session_is_resumed") if name not in image]
    if missing:
        raise UnreadableTlsError(f"it does not export {missing[0]}")
    layout = Layout(
        state_pointer=NO_STATE_POINTER,
        random=_random(image.code("gnutls_session_get_random")),
        server_flag=_entity(image.code("gnutls_session_is_resumed")),
        server_mask=_SERVER,
        read_bio=_descriptor(image.code("gnutls_transport_get_int")) if "gnutls_transport_get_int" in image else 0,
        bio_method=0,
        bio_number=0,
    )
    send = "gnutls_record_send2" if "gnutls_record_send2" in image else "gnutls_record_send"
    return TlsLibrary(
        layout, (_function(image, "gnutls_record_recv", is_write=False), _function(image, send, is_write=True))
    )


def _function(image: ElfImage, name: str, *, is_write: bool) -> Function:
    place = cheap_place(image.code(name))
    offset = image.offset(image.address(name) if place is None else place)
    return Function(name, offset, is_write, 0, place is not None, ())


def _random(code: Iterator[Instruction]) -> int:
    """lea disp(%rdi): the client's is told first."""
    for instruction in code:
        if instruction.mnemonic == Mnemonic.LEA and instruction.memory_base == Register.RDI:
            return offset_in_object(instruction.memory_displacement)
    raise UnreadableTlsError("gnutls_session_get_random does not say where the random is")


def _entity(code: Iterator[Instruction]) -> int:
    """It begins by asking whether the session is a client's: cmpl $2,disp(%rdi)."""
    for instruction in code:
        is_compared = instruction.code in (Code.CMP_RM32_IMM8, Code.CMP_RM32_IMM32)
        if is_compared and instruction.memory_base == Register.RDI and instruction.immediate(1) == _CLIENT:
            displacement = instruction.memory_displacement
            return offset_in_object(displacement) if displacement else 0
    raise UnreadableTlsError("gnutls_session_is_resumed does not say which end a session is")


def _descriptor(code: Iterator[Instruction]) -> int:
    """mov disp(%rdi),%eax; 0 when it is done otherwise."""
    for instruction in code:
        if instruction.code == Code.MOV_R32_RM32 and instruction.memory_base == Register.RDI:
            return offset_in_object(instruction.memory_displacement)
    return 0
