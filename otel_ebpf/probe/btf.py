"""Reads a kernel's own type information (BTF): which structs it has, and where each member lies.

In:   the bytes of /sys/kernel/btf/vmlinux, and the names of the structs that are wanted
Out:  ids of those structs; members with their offsets; values of enum constants by name; parameters of functions
Owns: nothing after it is dropped

The format is fixed by Documentation/bpf/btf.rst of the kernel. Only the positions of types are kept (126,000 of them
in 0.06 s), members are decoded when asked for. Every length and id comes from the file, so each is checked: odd input
raises BtfError, it neither hangs nor reads beside the blob.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from otel_ebpf.errors import PreflightError

KIND_INT, KIND_PTR, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM = 1, 2, 3, 4, 5, 6
KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_FUNC_PROTO = 8, 9, 10, 11, 13
KIND_FUNC, KIND_TYPE_TAG, KIND_ENUM64 = 12, 18, 19

_MAGIC = 0xEB9F
_HEADER = struct.Struct(
    "=HBBIIIII"
)  # magic version flags header_bytes type_offset type_bytes string_offset string_bytes
_TYPE = struct.Struct("=III")  # name_offset info size_or_type
_MEMBER = struct.Struct("=III")  # name_offset type_id offset
_ENUMERATOR = struct.Struct("=Ii")
_ENUMERATOR64 = struct.Struct("=III")  # name_offset low high
_ARRAY = struct.Struct("=III")  # element_type index_type element_count

# Bytes that follow the 12 common ones, by kind: a fixed number, or so many for each of the `vlen` elements.
_NO_TRAILER = frozenset({2, 7, 8, 9, 10, 11, 12, 16, 18})
_FIXED_TRAILER = {1: 4, 3: 12, 14: 4, 17: 4} | dict.fromkeys(_NO_TRAILER, 0)
_ELEMENT_BYTES = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}

_QUALIFIERS = frozenset({KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG})
_MAX_QUALIFIERS = 64  # a longer chain is a loop
_MAX_MEMBERS = 20_000  # of one struct; task_struct has about 300


class BtfError(PreflightError):
    """The kernel's type information is cut short or not of a form that this reader knows."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"cannot read the kernel's type information: {what}",
            "Install the kernel headers of exactly this kernel, or report this with the output of `uname -a`.",
        )


class Type(NamedTuple):
    name: str
    kind: int
    element_count: int
    kind_flag: bool
    size_or_type: int  # bytes for sized kinds, the type referred to for the others


class Member(NamedTuple):
    name: str  # "" for an anonymous struct or union
    type_id: int
    bit_offset: int
    bitfield_bits: int  # 0: not a bitfield


class Btf:
    """The types of one kernel; `structs` and `functions` map each wanted name that exists to its type id."""

    def __init__(self, blob: bytes, wanted_structs: Iterable[str] = (), wanted_functions: Iterable[str] = ()) -> None:
        if len(blob) < _HEADER.size:
            raise BtfError(f"it has {len(blob)} bytes, its header alone takes {_HEADER.size}")
        magic, version, _flags, header, type_at, type_bytes, string_at, string_bytes = _HEADER.unpack_from(blob)
        if magic != _MAGIC or version != 1:
            raise BtfError(f"it begins with magic {magic:#x}, version {version}; known is {_MAGIC:#x}, version 1")
        self._blob = blob
        self._strings_at, self._strings_end = header + string_at, header + string_at + string_bytes
        types_at, types_end = header + type_at, header + type_at + type_bytes
        if header < _HEADER.size or types_end > len(blob) or self._strings_end > len(blob) or not string_bytes:
            raise BtfError(f"its header points outside of its {len(blob)} bytes")
        if blob[self._strings_at] or blob[self._strings_end - 1]:
            raise BtfError("its strings neither begin nor end with a zero byte")
        self.structs: dict[str, int] = {}
        self.functions: dict[str, int] = {}
        self._enums: list[int] = []
        self._positions = array("I", [0])
        self._scan(types_at, types_end, self._string_offsets(wanted_structs), self._string_offsets(wanted_functions))

    def _scan(self, at: int, end: int, wanted: dict[int, str], functions: dict[int, str]) -> None:
        """Notes where each type begins. The one loop over all types: everything in it is paid 126,000 times."""
        blob, positions, enums = self._blob, self._positions, self._enums
        note, unpack = positions.append, _TYPE.unpack_from
        while at + 12 <= end:
            note(at)
            name_offset, info, _ = unpack(blob, at)
            kind = (info >> 24) & 31
            if kind in _ELEMENT_BYTES:
                at += 12 + _ELEMENT_BYTES[kind] * (info & 0xFFFF)
                if kind <= KIND_UNION:
                    if name_offset in wanted:
                        self.structs.setdefault(wanted[name_offset], len(positions) - 1)
                elif kind in (KIND_ENUM, KIND_ENUM64):
                    enums.append(len(positions) - 1)
            elif kind in _FIXED_TRAILER:
                at += 12 + _FIXED_TRAILER[kind]
                if kind == KIND_FUNC and name_offset in functions:
                    self.functions.setdefault(functions[name_offset], len(positions) - 1)
            else:
                raise BtfError(f"type {len(positions) - 1} has kind {kind}, which this reader does not know")
        if at != end:
            raise BtfError(f"type {len(positions) - 1} runs over the end of the types")

    def _string_offsets(self, names: Iterable[str]) -> dict[int, str]:
        """Offset of each name among the strings; strings are stored once, so one offset is enough."""
        found = {}
        for name in names:
            at = self._blob.find(b"\0" + name.encode() + b"\0", self._strings_at, self._strings_end)
            if at >= 0:
                found[at + 1 - self._strings_at] = name
        return found

    def _name(self, offset: int) -> str:
        start = self._strings_at + offset
        end = self._blob.find(b"\0", start, self._strings_end) if start < self._strings_end else -1
        if end < 0:
            raise BtfError(f"a name at offset {offset} lies outside of its strings")
        return self._blob[start:end].decode("ascii", "replace")

    def _at(self, type_id: int) -> int:
        if not 0 < type_id < len(self._positions):
            raise BtfError(f"it refers to type {type_id}, but has {len(self._positions) - 1}")
        return self._positions[type_id]

    def type(self, type_id: int) -> Type:
        name_offset, info, size_or_type = _TYPE.unpack_from(self._blob, self._at(type_id))
        return Type(self._name(name_offset), (info >> 24) & 31, info & 0xFFFF, bool(info >> 31), size_or_type)

    def resolve(self, type_id: int) -> int:
        """The type behind typedefs, const and the like; 0 is void."""
        for _ in range(_MAX_QUALIFIERS):
            if type_id == 0:
                return 0
            _, info, size_or_type = _TYPE.unpack_from(self._blob, self._at(type_id))
            if (info >> 24) & 31 not in _QUALIFIERS:
                return type_id
            type_id = size_or_type
        raise BtfError(f"type {type_id} is a typedef of itself")

    def array(self, type_id: int) -> tuple[int, int]:
        """Element type and element count of an array."""
        element_type, _index_type, count = _ARRAY.unpack_from(self._blob, self._at(type_id) + 12)
        return element_type, count

    def is_signed(self, type_id: int) -> bool:
        """Of an integer type."""
        (encoding,) = struct.unpack_from("=I", self._blob, self._at(type_id) + 12)
        return bool((encoding >> 24) & 1)

    def members(self, type_id: int) -> Iterator[Member]:
        """Direct members of a struct or union, anonymous ones included."""
        _, kind, count, has_bitfields, _ = self.type(type_id)
        if kind not in (KIND_STRUCT, KIND_UNION):
            raise BtfError(f"type {type_id} is no struct")
        at = self._at(type_id) + 12
        for name_offset, member_type, offset in _MEMBER.iter_unpack(self._blob[at : at + 12 * count]):
            bit_offset, bits = (offset & 0xFFFFFF, offset >> 24) if has_bitfields else (offset, 0)
            yield Member(self._name(name_offset), member_type, bit_offset, bits)

    def named_members(self, type_id: int) -> Iterator[Member]:
        """Members as C sees them: those of anonymous structs and unions belong to the struct around them."""
        left = _MAX_MEMBERS
        open_structs = [(0, self.members(type_id))]
        while open_structs:
            base_bits, members = open_structs[-1]
            member = next(members, None)
            if member is None:
                open_structs.pop()
                continue
            left -= 1
            if left < 0:
                raise BtfError(f"type {type_id} has more than {_MAX_MEMBERS} members, or holds itself")
            member = member._replace(bit_offset=base_bits + member.bit_offset)
            if member.name:
                yield member
                continue
            inner = self.resolve(member.type_id)
            if inner and self.type(inner).kind in (KIND_STRUCT, KIND_UNION):  # else: padding bits without a name
                open_structs.append((member.bit_offset, self.members(inner)))

    def parameter_count(self, function: str) -> int | None:
        """How many a function of the kernel takes; None when it is not known."""
        type_id = self.functions.get(function)
        if type_id is None:
            return None
        prototype = self.resolve(self.type(type_id).size_or_type)
        if not prototype or self.type(prototype).kind != KIND_FUNC_PROTO:
            raise BtfError(f"the type of the function {function} is none of a function")
        return self.type(prototype).element_count

    def enum_constants(self, names: Iterable[str]) -> dict[str, int]:
        """Values of the enum constants that this kernel has; absent ones are left out."""
        wanted = self._string_offsets(names)
        found: dict[str, int] = {}
        for type_id in self._enums if wanted else ():
            at = self._at(type_id)
            _, info, _ = _TYPE.unpack_from(self._blob, at)
            is_64, is_signed, count = (info >> 24) & 31 == KIND_ENUM64, bool(info >> 31), info & 0xFFFF
            values = self._blob[at + 12 : at + 12 + (12 if is_64 else 8) * count]
            if is_64:
                for offset, low, high in _ENUMERATOR64.iter_unpack(values):
                    if offset in wanted:
                        value = low | high << 32
                        found.setdefault(wanted[offset], value - (1 << 64) if is_signed and high >> 31 else value)
            else:
                for offset, value in _ENUMERATOR.iter_unpack(values):
                    if offset in wanted:
                        found.setdefault(wanted[offset], value)
        return found
