"""Puts compiled programs and their maps into the kernel.

In:   an Artifact, and of which kind each program is
Out:  Loaded: maps and program descriptors by name; ProbeError that shows what the verifier said
Owns: the descriptors, until `Loaded.close`

Loading attaches nothing. A program lives as long as a descriptor or an attachment holds it. A map is made when the first
program that uses it is loaded.
"""

import errno
import os
import resource
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from types import TracebackType

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import bpf
from otel_ebpf.probe.artifact import INSTRUCTION_BYTES, Artifact, MapSpec, ProgramCode
from otel_ebpf.probe.growing_maps import growing_flag
from otel_ebpf.probe.maps import Map
from otel_ebpf.probe.programs import TAIL_PROGRAMS, ProgramGroup, ProgramRow
from otel_ebpf.probe.uprobes import UprobeForm

_LOG_BYTES = (1 << 20, 1 << 24)  # the greater one when the smaller one does not do
_SHOWN_LOG_LINES = 12
_INSIDE = "_inside"  # ends the name of what is put into a map of maps
_PAIR = frozenset({"on_tls_call"})
NOT_IN_FORM = {
    UprobeForm.SESSION: frozenset({"on_tls_entry"}),
    UprobeForm.MULTI: _PAIR,
    UprobeForm.PERF: _PAIR,
}


@dataclass(slots=True)
class Loaded:
    maps: dict[str, Map] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)  # descriptors by function name
    growing_flag: int = 0  # see growing_maps.py
    to_come: dict[str, MapSpec] = field(default_factory=dict)  # by the name of the map that is to hold it
    later: dict[str, Callable[[], None]] = field(
        default_factory=dict
    )  # by program: what loads it, see later_programs.py

    def has(self, program: str) -> bool:
        """Now, or when it is asked for."""
        return program in self.programs or program in self.later

    def program(self, name: str) -> int:
        """Its descriptor. ProbeError when it cannot be loaded, if nobody has asked for it before."""
        if name not in self.programs:
            self.later[name]()
        return self.programs[name]

    def provide(self, name: str) -> None:
        """Puts a map into this one, which holds none until somebody needs it. OSError where there is no memory for it."""
        if name in self.to_come:
            inside = _new_map(self.to_come[name], self.growing_flag)
            self.maps[inside.name] = inside
            del self.to_come[name]
            self.maps[name].update(bytes(4), inside.fd.to_bytes(4, "little"))

    def close(self) -> None:
        for opened in self.maps.values():
            opened.close()
        while self.programs:
            os.close(self.programs.popitem()[1])

    def __enter__(self) -> "Loaded":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def load(artifact: Artifact, rows: Iterable[ProgramRow]) -> Loaded:
    """The programs of these rows and their maps, or none and an error."""
    kinds = {row.function: row.kind for row in rows}
    allow_locked_memory()
    loaded = Loaded(growing_flag=growing_flag())
    try:
        for program in artifact.programs:
            if program.name not in kinds:
                raise ProbeError(f"no row of probe/programs.py says of which kind the program {program.name} is")
            _create_maps(artifact, program, loaded)
            loaded.programs[program.name] = _load_program(program, kinds[program.name], loaded.maps)
        _fill_tails(loaded, "tail_programs", TAIL_PROGRAMS)
    except BaseException:
        loaded.close()
        raise
    return loaded


def load_group(artifact: Artifact, loaded: Loaded, form: UprobeForm, group: ProgramGroup) -> None:
    """As far as this form wants them; or an error, and nothing is changed."""
    if not group.asks_for_returns:
        form = form.of_instructions
    wanted = {row.function: row.kind for row in group.rows if row.function not in NOT_IN_FORM[form]}
    programs: dict[str, int] = {}
    maps_before = set(loaded.maps)
    try:
        for program in artifact.programs:
            if program.name in wanted:
                _create_maps(artifact, program, loaded)
                programs[program.name] = _load_program(program, wanted[program.name], loaded.maps, form.value)
    except BaseException:
        for descriptor in programs.values():
            os.close(descriptor)
        for name in loaded.maps.keys() - maps_before:
            loaded.maps.pop(name).close()
        raise
    loaded.programs |= programs
    _fill_tails(loaded, group.tail_map, group.tails)


def _fill_tails(loaded: Loaded, map_name: str, places: Iterable[tuple[str, int]]) -> None:
    for name, index in places:
        if name in loaded.programs:
            place, program_fd = index.to_bytes(4, "little"), loaded.programs[name].to_bytes(4, "little")
            loaded.maps[map_name].update(place, program_fd)


def allow_locked_memory() -> None:
    """Before 5.11 maps count as locked memory of this process, of which 64 KB are allowed by default.

    Raising the limit takes CAP_SYS_RESOURCE, which newer kernels do not ask for: if it is needed and missing,
    creating the map fails, and says so.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _create_maps(artifact: Artifact, program: ProgramCode, loaded: Loaded) -> None:
    """Those of this program that no other one has brought."""
    used = {name for _, name in program.map_references} - loaded.maps.keys()
    specs = {spec.name: spec for spec in artifact.maps}
    for spec in (spec for spec in artifact.maps if spec.name in used):
        try:
            if spec.kind == bpf.BPF_MAP_TYPE_ARRAY_OF_MAPS:
                loaded.to_come[spec.name] = specs[spec.name + _INSIDE]
                with closing(_new_map(specs[spec.name + _INSIDE]._replace(max_entries=1), loaded.growing_flag)) as like:
                    loaded.maps[spec.name] = _new_map(spec, 0, like.fd)
            else:
                loaded.maps[spec.name] = _new_map(spec, loaded.growing_flag)
        except OSError as error:
            what = f"cannot create the map {spec.name} (type {spec.kind}, {spec.max_entries} entries): {error.strerror}"
            raise ProbeError(what, _remedy(error)) from error


def _new_map(spec: MapSpec, growing_flag: int, like_fd: int = 0) -> Map:
    flags = spec.creation_flags | (growing_flag if spec.kind == bpf.BPF_MAP_TYPE_HASH else 0)
    name = _kernel_name(spec.name)
    fd = bpf.create_map(spec.kind, spec.key_bytes, spec.value_bytes, spec.max_entries, flags, name, like_fd)
    opened = Map(fd, spec.name, spec.kind, spec.key_bytes, spec.value_bytes, spec.max_entries)
    if opened.is_per_cpu:
        opened.cpu_count = bpf.possible_cpu_count()
    return opened


def _load_program(program: ProgramCode, kind: int, maps: dict[str, Map], attach_type: int = 0) -> int:
    code = bytearray(program.instructions)
    for index, map_name in program.map_references:
        at = index * INSTRUCTION_BYTES + 4
        code[at : at + 4] = maps[map_name].fd.to_bytes(4, "little")
    name = _kernel_name(program.name)
    try:
        return bpf.load_program(kind, bytes(code), name, expected_attach_type=attach_type)[0]
    except bpf.VerifierError as error:
        if error.errno == errno.EPERM:  # EACCES is the verifier's word for a forbidden access
            raise ProbeError(f"cannot load the program {program.name}: {error.strerror}", _remedy(error)) from error
        why = _verifier_message(kind, bytes(code), name, attach_type)
        raise ProbeError(
            f"the kernel refuses the program {program.name} ({error.strerror}):\n{why}", _remedy(error)
        ) from error


def _verifier_message(kind: int, code: bytes, name: str, attach_type: int) -> str:
    """Loads once more with the verifier's log on: it is slow, so not before there is a reason."""
    log = ""
    for log_bytes in _LOG_BYTES:
        try:
            os.close(bpf.load_program(kind, code, name, expected_attach_type=attach_type, log_bytes=log_bytes)[0])
            return "  (the second attempt succeeded: this kernel is short of memory)"
        except bpf.VerifierError as error:
            log = error.log
            if error.errno != errno.ENOSPC:
                break
    lines = [line for line in log.splitlines() if line.strip() and not _is_statistics(line)]
    return "\n".join(f"  {line}" for line in lines[-_SHOWN_LOG_LINES:]) or "  the verifier said nothing"


def _is_statistics(line: str) -> bool:
    """`processed 12 insns (limit 1000000) ...` ends every log."""
    return line.startswith(("processed ", "verification time ", "stack depth "))


def _remedy(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "Run as root, or with CAP_BPF and CAP_PERFMON; before Linux 5.11 also `ulimit -l unlimited`."
    if error.errno == errno.ENOMEM:
        return "Free some memory."
    return "`otel-ebpf check` lists what this kernel lacks; if nothing, report this with the output of `uname -a`."


def _kernel_name(name: str) -> str:
    """bpftool shows the first 15 characters."""
    return name[:15]
