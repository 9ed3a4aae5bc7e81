"""What a kernel's image tells without being run: its name, and its types as /sys/kernel/btf/vmlinux will show them.

In:   a Kernel
Out:  KernelTypes, so that this host can compile for that kernel
Owns: a copy of the types beside the image: the image unpacks to 60 MB and more

See Documentation/arch/x86/boot.rst for the header.
"""

import io
import lzma
import struct
import subprocess

from elftools.elf.elffile import ELFFile

from otel_ebpf.probe.kernel_types import KernelName, KernelTypes
from tests.vm.kernels import Kernel, KernelError

SECTOR_BYTES = 512
SETUP_SECTORS_AT, VERSION_AT, PAYLOAD_AT = 0x1F1, 0x20E, 0x248
TRAILER_BYTES = 4  # how long the payload is once unpacked
UNPACKERS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4", b"\x1f\x8b": "gzip"}
XZ = b"\xfd7zXZ\0"


def types_of(kernel: Kernel) -> KernelTypes:
    image = kernel.image.read_bytes()
    copy = kernel.folder / "btf"
    if not copy.exists():
        section = ELFFile(io.BytesIO(_unpacked(_payload(image)))).get_section_by_name(".BTF")
        if section is None:
            raise KernelError(f"{kernel.image} has no types in it")
        partial = copy.with_suffix(".new")
        partial.write_bytes(section.data())
        partial.rename(copy)
    return KernelTypes(copy.read_bytes(), None, name_of(image))


def name_of(image: bytes) -> KernelName:
    """`6.1.0-32-amd64 (builder@host) #1 SMP …`: what uname shows is around the parentheses."""
    (at,) = struct.unpack_from("<H", image, VERSION_AT)
    text = image[SECTOR_BYTES + at :].split(b"\0", 1)[0].decode()
    return KernelName(text.split(" ", 1)[0], text[text.index("#") :], "x86_64")


def _payload(image: bytes) -> bytes:
    offset, length = struct.unpack_from("<II", image, PAYLOAD_AT)
    start = (image[SETUP_SECTORS_AT] + 1) * SECTOR_BYTES + offset
    return image[start : start + length - TRAILER_BYTES]


def _unpacked(payload: bytes) -> bytes:
    if payload.startswith(XZ):
        return lzma.decompress(payload)
    for magic, program in UNPACKERS.items():
        if payload.startswith(magic):
            return subprocess.run([program, "-dc"], input=payload, capture_output=True, check=True).stdout
    raise KernelError(f"an image compressed in a way not known here: {payload[:8].hex()}")
