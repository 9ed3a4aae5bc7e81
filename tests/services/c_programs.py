"""Builds a C program of the tests once.

In:   a source file, flags
Out:  the path of the program, in the cache of tools/go_build.py, named by what went in
Owns: nothing else
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tools.go_build import cache_folder


def build_c(source: Path, *flags: str) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("gcc is not installed: make setup-check installs it")
    what = hashlib.sha256("\0".join(flags).encode() + b"\0" + source.read_bytes()).hexdigest()
    program = cache_folder() / f"{source.stem}-{what[:16]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run([compiler, "-O2", "-Wall", "-Werror", *flags, "-o", str(partial), str(source)], check=True)
        partial.rename(program)
    return program
