"""Writes structs of a kernel as C, pruned to the members that are used, each at its absolute offset.

In:   a Btf, and which members of which structs are wanted
Out:  C text for one struct at a time, after the structs that it holds by value
Owns: which structs are written already

    struct sock_common { union { u8 __bytes[136];
      struct { u8 __to_skc_dport[12]; u16 skc_dport; };
    }; };

A union of members, each behind its own padding, needs no layout rule: what is left out leaves no trace. The struct is
`packed` only where its natural place would be another one. Every size and offset is asserted in the text itself.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from otel_ebpf.probe import btf as kinds
from otel_ebpf.probe.btf import Btf, BtfError, Member

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_MAX_DEPTH = 12  # of arrays of structs of arrays; the kernel's need 4
_POINTER_BYTES = 8  # 64-bit kernels only


class Declaration(NamedTuple):
    text: str  # C declaration of one name, without semicolon
    align_bytes: int


class StructWriter:
    """Writes each struct of `wanted` once; a member tuple that is empty means every member."""

    def __init__(self, btf: Btf, wanted: Mapping[str, tuple[str, ...]]) -> None:
        self._btf = btf
        self._wanted = wanted
        self._align_bytes: dict[str, int] = {}  # of the structs written so far
        self._lines: list[str] = []
        self._pointed_at: set[str] = set()

    def text(self) -> str:
        """All wanted structs that this kernel has, with the macros that say so."""
        for name in self._wanted:
            self._write_struct(name)
        forward = [f"struct {name};" for name in sorted(self._pointed_at | set(self._align_bytes))]
        return "\n".join(forward + self._lines) + "\n"

    def _write_struct(self, name: str, depth: int = 0) -> None:
        type_id = self._btf.structs.get(name)
        if type_id is None or name in self._align_bytes:
            return
        members = self._selected_members(name, type_id)
        for member in members:
            self._write_held_structs(member.type_id, depth)
        facts: list[str] = []
        for member in members:
            if member.bitfield_bits:
                facts.append(f"#define BITFIELD_{name}_{member.name}_OFFSET {member.bit_offset}")
                facts.append(f"#define BITFIELD_{name}_{member.name}_BITS {member.bitfield_bits}")
            else:
                offset = f"__builtin_offsetof(struct {name}, {member.name})"
                facts.append(f'_Static_assert({offset} == {member.bit_offset // 8}, "{name}.{member.name}");')
            facts.append(f"#define HAVE_{name}_{member.name} 1")
        size_bytes = self._btf.type(type_id).size_or_type
        body, self._align_bytes[name] = self._body(members, size_bytes, depth)
        self._lines += [f"struct {name} {body};", f'_Static_assert(sizeof(struct {name}) == {size_bytes}, "{name}");']
        self._lines += [f"#define HAVE_{name} 1", *facts]

    def _selected_members(self, name: str, type_id: int) -> list[Member]:
        wanted, seen = self._wanted[name], set()
        members = []
        for member in self._btf.named_members(type_id):
            if (not wanted or member.name in wanted) and member.name not in seen:
                seen.add(member.name)
                members.append(member)
        return members

    def _write_held_structs(self, type_id: int, depth: int) -> None:
        """Structs that are members by value, or in arrays, have to be known first."""
        type_id = self._btf.resolve(type_id)
        for _ in range(_MAX_DEPTH):
            if not type_id or self._btf.type(type_id).kind != kinds.KIND_ARRAY:
                break
            type_id = self._btf.resolve(self._btf.array(type_id)[0])
        name = self._struct_name(type_id)
        if name in self._wanted:
            if depth > _MAX_DEPTH:
                raise BtfError(f"struct {name} holds itself")
            self._write_struct(name, depth + 1)

    def _struct_name(self, type_id: int) -> str:
        found = self._btf.type(type_id) if type_id else None
        return found.name if found and found.kind == kinds.KIND_STRUCT else ""

    def _body(self, members: list[Member], size_bytes: int, depth: int) -> tuple[str, int]:
        lines, align_bytes = [f"  u8 __bytes[{size_bytes}];"], 1
        for member in members:
            if member.bitfield_bits:
                continue
            if not _IDENTIFIER.match(member.name):
                raise BtfError(f"a member is called {member.name!r}")
            at = member.bit_offset // 8
            declared = self._declare(member.type_id, member.name, depth + 1)
            padding = f"u8 __to_{member.name}[{at}]; " if at else ""
            is_natural = at % declared.align_bytes == 0 and size_bytes % declared.align_bytes == 0
            packed = "" if is_natural else " __attribute__((packed))"
            lines.append(f"  struct {{ {padding}{declared.text}; }}{packed};")
            if is_natural:
                align_bytes = max(align_bytes, declared.align_bytes)
        return "{ union {\n" + "\n".join(lines) + "\n}; }", align_bytes

    def _declare(self, type_id: int, name: str, depth: int) -> Declaration:
        """`name` declared with a type of the same size; the same meaning as well where C code may want it."""
        if depth > _MAX_DEPTH:
            raise BtfError(f"the type of {name} is nested more than {_MAX_DEPTH} deep")
        type_id = self._btf.resolve(type_id)
        if not type_id:
            raise BtfError(f"{name} is of type void")
        found = self._btf.type(type_id)
        size_bytes = found.size_or_type
        if found.kind == kinds.KIND_PTR:
            return Declaration(self._pointer(found.size_or_type, name), _POINTER_BYTES)
        if found.kind == kinds.KIND_ARRAY:
            element_type, count = self._btf.array(type_id)
            return self._declare(element_type, f"{name}[{count}]", depth + 1)
        if found.kind == kinds.KIND_INT and size_bytes in (1, 2, 4, 8):
            letter = "s" if self._btf.is_signed(type_id) else "u"
            return Declaration(f"{'char' if found.name == 'char' else f'{letter}{size_bytes * 8}'} {name}", size_bytes)
        if found.kind in (kinds.KIND_ENUM, kinds.KIND_ENUM64) and size_bytes in (1, 2, 4, 8):
            return Declaration(f"u{size_bytes * 8} {name}", size_bytes)
        if found.kind == kinds.KIND_STRUCT and found.name in self._align_bytes:
            return Declaration(f"struct {found.name} {name}", self._align_bytes[found.name])
        if found.kind in (kinds.KIND_STRUCT, kinds.KIND_UNION) and not found.name:
            body, align_bytes = self._body(list(self._btf.named_members(type_id)), size_bytes, depth)
            return Declaration(f"struct {body} {name}", align_bytes)
        if found.kind in (kinds.KIND_FUNC_PROTO, kinds.KIND_PTR):
            raise BtfError(f"{name} is of kind {found.kind}, which has no size")
        return Declaration(f"u8 {name}[{size_bytes}]", 1)

    def _pointer(self, target_id: int, name: str) -> str:
        """To a struct, or to a pointer to one, by its name; everything else is void *."""
        stars = "*"
        target_id = self._btf.resolve(target_id)
        if target_id and self._btf.type(target_id).kind == kinds.KIND_PTR:
            stars = "**"
            target_id = self._btf.resolve(self._btf.type(target_id).size_or_type)
        struct_name = self._struct_name(target_id)
        if _IDENTIFIER.match(struct_name):
            self._pointed_at.add(struct_name)
            return f"struct {struct_name} {stars}{name}"
        return f"void {stars}{name}"
