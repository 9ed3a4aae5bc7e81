"""Makes small artifacts for tests of what carries them."""

import os
from pathlib import Path

from otel_ebpf.probe.artifact import Artifact, Compiler, CompilerFile, MapSpec, ProgramCode

LOAD_MAP = bytes.fromhex("18110000000000000000000000000000")  # r1 = map
RETURN = bytes.fromhex("b7000000000000009500000000000000")


def compiler_of(path: Path) -> Compiler:
    facts = os.stat(path)
    file = CompilerFile(str(path), facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return Compiler("/usr/bin/python3", "0.26.0", (file,))


def small_artifact(compiler_file: Path = Path(__file__)) -> Artifact:
    """One map, one program that names it."""
    return Artifact(
        (MapSpec("targets", 1, 4, 8, 1024, 0),),
        (ProgramCode("on_sys_exit", LOAD_MAP + RETURN, ((0, "targets"),)),),
        compiler_of(compiler_file),
    )
