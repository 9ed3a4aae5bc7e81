"""Compiles BPF C with bcc, in a process of its own: run by the distribution's Python, which alone can import bcc.

In:   on stdin, JSON: {"text": C source, "cflags": [...]}; or {} to be told only which bcc this is
Out:  on stdout, JSON as probe/artifact.py reads it; compiler messages on stderr
Owns: the process. LLVM takes 100 MB, so it lives as briefly as it can.

Stands alone: standard library and bcc, no import of this project, syntax of Python 3.8. Exit status 3 means that this
interpreter has no bcc, so that another one can be tried.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import sys
from typing import Any, NoReturn

NO_BCC = 3
COMPILE_FAILED = 4
PR_SET_PDEATHSIG = 1
LOAD_IMMEDIATE_64 = 0x18
CALL = 0x85
PSEUDO_MAP_FD = 1


def main() -> NoReturn:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the agent
    # bcc and LLVM may print anything to stdout; only the result may go where the parent reads it.
    result = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    bcc = import_bcc()
    maps, programs = compile_source(bcc, job["text"], job["cflags"]) if job else ([], [])
    compiler = [sys.executable, getattr(bcc, "__version__", "unknown"), compiler_files(bcc)]
    result.write(json.dumps({"maps": maps, "programs": programs, "compiler": compiler}).encode())
    result.flush()
    os._exit(0)  # without bcc's atexit handler: there is nothing to clean up that exiting does not


def import_bcc() -> Any:
    """PyPI has an unrelated package of the same name; the right one has the class BPF and its C library."""
    try:
        import bcc
        from bcc.libbcc import lib
    except (ImportError, OSError) as error:
        leave(NO_BCC, f"no bcc: {error}")
    if not hasattr(bcc, "BPF") or not hasattr(lib, "bpf_module_create_c_from_string"):
        leave(NO_BCC, f"{bcc.__file__} is another program of the name bcc")
    return bcc


def compile_source(bcc: Any, text: str, cflags: list[str]) -> tuple[list[Any], list[Any]]:
    from bcc.libbcc import lib

    bcc.BPF._trace_autoload = lambda self: None  # nothing is attached here, whatever the functions are called
    try:
        compiled = bcc.BPF(text=text.encode(), cflags=cflags)
    except Exception as error:  # noqa: BLE001 - bcc raises no other kind
        leave(COMPILE_FAILED, str(error))
    module = compiled.module
    lib.bpf_table_name.restype = ctypes.c_char_p  # bcc's own declarations leave this one out
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    maps: list[Any] = []
    name_of_fd: dict[int, str] = {}
    for index in range(lib.bpf_num_tables(module)):
        name = lib.bpf_table_name(module, index).decode()
        fd = lib.bpf_table_fd_id(module, index)
        name_of_fd[fd] = name
        maps.append([name, *describe_map(fd)])
    programs = []
    for index in range(lib.bpf_num_functions(module)):
        name = lib.bpf_function_name(module, index)
        programs.append(describe_program(name.decode(), compiled.dump_func(name), name_of_fd))
    return maps, programs


def describe_map(fd: int) -> list[int]:
    """As the kernel has it: bcc rounds some sizes and translates some types."""
    facts = {}
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            facts[key] = value.strip()
    return [int(facts[key], 0) for key in ("map_type", "key_size", "value_size", "max_entries", "map_flags")]


def describe_program(name: str, instructions: bytes, name_of_fd: dict[int, str]) -> list[Any]:
    """Replaces the map descriptors of this process by zero, and says where which map belongs."""
    code = bytearray(instructions)
    references: list[Any] = []
    at = 0
    while at < len(code):
        opcode, source = code[at], code[at + 1] >> 4
        if opcode == LOAD_IMMEDIATE_64:
            if source == PSEUDO_MAP_FD:
                fd = int.from_bytes(code[at + 4 : at + 8], sys.byteorder)
                references.append([at // 8, name_of_fd[fd]])
                code[at + 4 : at + 8] = bytes(4)
            elif source:
                leave(COMPILE_FAILED, f"error: {name} refers to something that is no map (kind {source})")
            at += 8
        elif opcode == CALL and source:
            leave(COMPILE_FAILED, f"error: {name} calls a function that is not inlined: declare it __always_inline")
        at += 8
    return [name, base64.b64encode(bytes(code)).decode(), references]


def compiler_files(bcc: Any) -> list[Any]:
    """[path, bytes, modification time, inode] of everything whose change could change the result."""
    folder = os.path.dirname(bcc.__file__)
    paths = {os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".py")}
    with open("/proc/self/maps") as mappings:
        for line in mappings:
            path = line.rstrip("\n").split(None, 5)[5:]
            if path and os.path.basename(path[0]).startswith(("libbcc", "libbpf", "libLLVM", "libclang")):
                paths.add(path[0])
    files = []
    for path in sorted(paths):
        facts = os.stat(path)
        files.append([path, facts.st_size, facts.st_mtime_ns, facts.st_ino])
    return files


def leave(status: int, message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
