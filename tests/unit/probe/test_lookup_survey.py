"""What `otel-ebpf check` says of the C libraries of processes."""

import os
from pathlib import Path

from otel_ebpf.probe.lookup_survey import survey_lookups
from otel_ebpf.probe.procfs import Procfs
from tests.unit.probe.test_function_finder import address_in_memory, compiled, mapping_of
from tests.unit.probe.test_tls_survey import Mapping


def test_the_library_of_this_process_is_seen_cheaply() -> None:
    (library,) = survey_lookups([os.getpid()], Procfs())

    assert (str(mapping_of(address_in_memory())[0]), True) == (library.path, library.is_read)
    assert library.detail.startswith("probes where the kernel emulates the instruction")


def test_one_that_was_compiled_otherwise_costs_more(tmp_path: Path) -> None:
    library = compiled(tmp_path, "-O0", "-fno-stack-protector")

    (found,) = survey_lookups([7, 8], Mapping(library))
    assert (str(library), True) == (found.path, found.is_read)
    assert found.detail.startswith("probes where the kernel has to single-step")


def test_one_without_the_function_is_told_and_other_files_are_not(tmp_path: Path) -> None:
    empty = tmp_path / "libc.so.6"
    empty.write_bytes(b"\x7fELF")

    (found,) = survey_lookups([7], Mapping(empty, Path("/bin/true")))
    assert (str(empty), False) == (found.path, found.is_read)
