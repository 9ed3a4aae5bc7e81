"""Compiled BPF programs as data: instructions, the maps they use, and which files compiled them.

In:   JSON from the compiler or the cache
Out:  Artifact, checked in every length and reference; `encode` gives the same JSON back
Owns: nothing

Instructions name their maps by index in `map_references`, not by descriptor, so an artifact means the same in every
process of this kernel.
"""

import base64
import binascii
import json
import re
from typing import Any, NamedTuple

INSTRUCTION_BYTES = 8
LOAD_MAP_OPCODE = 0x18  # a 64-bit load; it takes two instructions
LOAD_MAP_SOURCE = 1  # BPF_PSEUDO_MAP_FD: the constant is a map's descriptor

_NAME = re.compile(r"[A-Za-z_]\w{0,127}\Z", re.ASCII)
_MAX_INSTRUCTIONS = 1_000_000  # the verifier's own bound
_MAX_MAPS = 64  # the kernel's bound for one program
_MAX_PROGRAMS = 256
_MAX_FILES = 1_000


class ArtifactError(ValueError):
    """These bytes are no artifact; says in which place."""


class MapSpec(NamedTuple):
    name: str
    kind: int  # BPF_MAP_TYPE_*
    key_bytes: int
    value_bytes: int
    max_entries: int
    creation_flags: int  # BPF_F_*


class ProgramCode(NamedTuple):
    name: str
    instructions: bytes
    map_references: tuple[tuple[int, str], ...]  # (index of the instruction, name of the map)


class CompilerFile(NamedTuple):
    """A file that took part in compiling; if it is not the same any more, neither is the compiler."""

    path: str
    size_bytes: int
    modified_ns: int
    inode: int


class Compiler(NamedTuple):
    python: str
    bcc_version: str
    files: tuple[CompilerFile, ...]


class Artifact(NamedTuple):
    maps: tuple[MapSpec, ...]
    programs: tuple[ProgramCode, ...]
    compiler: Compiler


def encode(artifact: Artifact) -> bytes:
    document = {
        "maps": artifact.maps,
        "programs": [
            [program.name, base64.b64encode(program.instructions).decode(), program.map_references]
            for program in artifact.programs
        ],
        "compiler": artifact.compiler,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode(blob: bytes) -> Artifact:
    try:
        document = json.loads(blob)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON: {error}") from error
    if not isinstance(document, dict) or document.keys() != {"maps", "programs", "compiler"}:
        raise ArtifactError("it does not consist of maps, programs and compiler")
    maps = tuple(_map(row) for row in _rows(document["maps"], "maps", 6, _MAX_MAPS))
    map_names = {spec.name for spec in maps}
    programs = tuple(_program(row, map_names) for row in _rows(document["programs"], "programs", 3, _MAX_PROGRAMS))
    if len(map_names) != len(maps) or len({program.name for program in programs}) != len(programs):
        raise ArtifactError("two maps or two programs have the same name")
    (compiler,) = _rows([document["compiler"]], "compiler", 3, 1)
    files = tuple(
        CompilerFile(_text(path), _number(size, 2**63), _number(modified, 2**63), _number(inode, 2**64))
        for path, size, modified, inode in _rows(compiler[2], "files", 4, _MAX_FILES)
    )
    return Artifact(maps, programs, Compiler(_text(compiler[0]), _text(compiler[1]), files))


def _map(row: list[Any]) -> MapSpec:
    name, *numbers = row
    return MapSpec(_name(name), *(_number(number, 2**32) for number in numbers))


def _program(row: list[Any], map_names: set[str]) -> ProgramCode:
    name = _name(row[0])
    try:
        instructions = base64.b64decode(_text(row[1]), validate=True)
    except binascii.Error as error:
        raise ArtifactError(f"the instructions of {name} are not base64: {error}") from error
    count = len(instructions) // INSTRUCTION_BYTES
    if not 0 < count <= _MAX_INSTRUCTIONS or len(instructions) % INSTRUCTION_BYTES:
        raise ArtifactError(f"{name} has {len(instructions)} bytes of instructions")
    references = []
    for index, map_name in _rows(row[2], f"maps of {name}", 2, count):
        at = _number(index, count) * INSTRUCTION_BYTES
        if instructions[at] != LOAD_MAP_OPCODE or instructions[at + 1] >> 4 != LOAD_MAP_SOURCE:
            raise ArtifactError(f"instruction {index} of {name} does not load a map")
        if map_name not in map_names:
            raise ArtifactError(f"{name} uses the map {map_name!r}, which does not exist")
        references.append((index, map_name))
    return ProgramCode(name, instructions, tuple(references))


def _rows(value: Any, what: str, columns: int, max_rows: int) -> list[list[Any]]:
    if not isinstance(value, list) or len(value) > max_rows:
        raise ArtifactError(f"its {what} are no list of up to {max_rows}")
    if any(not isinstance(row, list) or len(row) != columns for row in value):
        raise ArtifactError(f"one of its {what} does not have {columns} parts")
    return value


def _number(value: Any, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise ArtifactError(f"{value!r:.60} is no number from 0 to {below - 1}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ArtifactError(f"{value!r:.60} is no text")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ArtifactError(f"{value!r:.60} is no C name")
    return value
