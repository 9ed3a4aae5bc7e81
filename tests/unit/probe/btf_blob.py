"""Builds small BTF blobs, so that the reader can be tried on kernels that do not exist.

In:   types, one after the other; each call returns the new type's id
Out:  the blob as /sys/kernel/btf/vmlinux would hold it
Owns: the ids and strings
"""

import struct

Member = tuple[str, int, int] | tuple[str, int, int, int]  # name, type id, bit offset, bits of a bitfield

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST, ENUM64 = 1, 2, 3, 4, 5, 6, 8, 10, 19
FUNC, FUNC_PROTO = 12, 13
SIGNED = 1 << 24


class BtfBlob:
    def __init__(self) -> None:
        self._strings = bytearray(b"\0")
        self._types: list[bytes] = []

    def integer(self, name: str, size_bytes: int, *, is_signed: bool = False) -> int:
        encoding = (SIGNED if is_signed else 0) | size_bytes * 8
        return self._add(name, INT, 0, size_bytes, struct.pack("=I", encoding))

    def pointer(self, target: int) -> int:
        return self._add("", PTR, 0, target)

    def array(self, element: int, count: int) -> int:
        return self._add("", ARRAY, 0, 0, struct.pack("=III", element, 1, count))

    def typedef(self, name: str, target: int) -> int:
        return self._add(name, TYPEDEF, 0, target)

    def struct(self, name: str, size_bytes: int, members: list[Member], *, kind: int = STRUCT) -> int:
        has_bitfields = any(len(member) == 4 for member in members)
        rows = b""
        for member_name, type_id, bit_offset, *bits in members:
            rows += struct.pack("=III", self._string(member_name), type_id, bit_offset | (bits[0] << 24 if bits else 0))
        return self._add(name, kind, len(members), size_bytes, rows, kind_flag=has_bitfields)

    def union(self, name: str, size_bytes: int, members: list[Member]) -> int:
        return self.struct(name, size_bytes, members, kind=UNION)

    def enum(self, name: str, constants: dict[str, int]) -> int:
        rows = b"".join(struct.pack("=Ii", self._string(constant), value) for constant, value in constants.items())
        return self._add(name, ENUM, len(constants), 4, rows)

    def enum64(self, name: str, constants: dict[str, int]) -> int:
        rows = b""
        for constant, value in constants.items():
            rows += struct.pack("=III", self._string(constant), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF)
        return self._add(name, ENUM64, len(constants), 8, rows, kind_flag=True)

    def function(self, name: str, parameters: dict[str, int]) -> int:
        """One that returns an int, type 1."""
        rows = b"".join(
            struct.pack("=II", self._string(parameter), type_id) for parameter, type_id in parameters.items()
        )
        return self._add(name, FUNC, 0, self._add("", FUNC_PROTO, len(parameters), 1, rows))

    def other(self, kind: int) -> int:
        """A type of any kind, without what should follow it."""
        return self._add("", kind, 0, 0)

    def build(self) -> bytes:
        types = b"".join(self._types)
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return header + types + self._strings

    def _add(
        self, name: str, kind: int, count: int, size_or_type: int, rest: bytes = b"", *, kind_flag: bool = False
    ) -> int:
        info = kind << 24 | count | (1 << 31 if kind_flag else 0)
        self._types.append(struct.pack("=III", self._string(name), info, size_or_type) + rest)
        return len(self._types)

    def _string(self, text: str) -> int:
        if not text:
            return 0
        at = self._strings.find(b"\0" + text.encode() + b"\0")
        if at < 0:
            at = len(self._strings) - 1
            self._strings += text.encode() + b"\0"
        return at + 1


def small_kernel() -> BtfBlob:
    """A kernel of a few structs with everything odd that real ones have."""
    blob = BtfBlob()
    u32 = blob.integer("unsigned int", 4)
    u16 = blob.integer("short unsigned int", 2)
    s32 = blob.integer("int", 4, is_signed=True)
    char = blob.integer("char", 1, is_signed=True)
    u64 = blob.integer("long unsigned int", 8)
    atomic = blob.typedef("atomic_t", blob.struct("", 4, [("counter", s32, 0)]))
    ports = blob.struct("", 4, [("skc_dport", u16, 0), ("skc_num", u16, 16)])
    pair = blob.union("", 4, [("skc_portpair", u32, 0), ("", ports, 0)])
    common = blob.struct("sock_common", 16, [("skc_addrpair", u64, 0), ("", pair, 64), ("skc_family", u16, 96)])
    sock = blob.struct(
        "sock",
        32,
        [
            ("__sk_common", common, 0, 0),
            ("sk_kern_sock", u32, 130, 3),
            ("sk_err", s32, 160, 0),
            ("sk_live", atomic, 192, 0),
        ],
    )
    blob.struct("files_struct", 40, [("fdt", blob.pointer(sock), 0), ("name", blob.array(char, 16), 64)])
    blob.struct("packed_struct", 9, [("kind", char, 0), ("value", u64, 8)])
    blob.enum("", {"TCP_ESTABLISHED": 1, "TCP_LISTEN": 10, "NEGATIVE": -2})
    blob.enum64("", {"WIDE": 1 << 40, "WIDE_NEGATIVE": -1})
    return blob
