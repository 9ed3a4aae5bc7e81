import os
import sys
from pathlib import Path

import pytest

from otel_ebpf.errors import PreflightError, ProbeError
from otel_ebpf.probe.artifact import encode
from otel_ebpf.probe.cached_compiler import compiler_flags
from otel_ebpf.probe.compiler import identify_bcc
from otel_ebpf.probe.kernel_types import KernelTypes
from otel_ebpf.probe.programs import Source
from tests.services.compiling import compile_source
from tests.services.processes import children_of
from tests.unit.probe.artifacts import small_artifact
from tests.unit.probe.btf_blob import small_kernel

TYPES = KernelTypes(small_kernel().build(), None)


class Interpreter:
    """A program that is run in place of the distribution's Python."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "python3"

    def does(self, script: str) -> str:
        self.path.write_text(f"#!/bin/sh\n{script}\n")
        self.path.chmod(0o755)
        return str(self.path)


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    return Interpreter(tmp_path)


def test_a_killed_compiler_is_reported_as_killed(interpreter: Interpreter):
    """The kernel's out-of-memory killer leaves no other trace."""
    python = interpreter.does("cat > /dev/null; kill -9 $$")

    with pytest.raises(ProbeError, match="killed by SIGKILL") as raised:
        compile_source("", [], TYPES, bcc_python=python)

    assert "memory" in raised.value.remedy


def test_a_compiler_that_hangs_is_ended(interpreter: Interpreter):
    before = set(children_of(os.getpid()))

    with pytest.raises(ProbeError, match=r"did not finish within 0\.5 s"):
        compile_source("", [], TYPES, bcc_python=interpreter.does("exec sleep 600"), timeout_seconds=0.5)

    assert set() == set(children_of(os.getpid())) - before


def test_an_error_in_the_source_names_file_and_line(interpreter: Interpreter):
    script = """cat > /dev/null
echo "In file included from x" >&2; echo "http1.c:12:5: error: unknown type name 'foo'" >&2; echo "  foo bar;" >&2
exit 4"""

    with pytest.raises(ProbeError) as raised:
        compile_source("", [], TYPES, bcc_python=interpreter.does(script))

    assert "cannot compile the probes: http1.c:12:5: error: unknown type name 'foo'\n  foo bar;" == raised.value.what


def test_a_compiler_without_a_word_still_gives_its_exit_status(interpreter: Interpreter):
    with pytest.raises(ProbeError, match="exit status 9, no message"):
        compile_source("", [], TYPES, bcc_python=interpreter.does("cat > /dev/null; exit 9"))


def test_an_answer_that_is_no_artifact_is_refused(interpreter: Interpreter):
    """What the child says is loaded into the kernel: it is checked like a file."""
    with pytest.raises(ProbeError, match="makes no sense"):
        compile_source("", [], TYPES, bcc_python=interpreter.does("cat > /dev/null; echo '{\"maps\": 5}'"))


def test_an_answer_that_is_an_artifact_is_returned(interpreter: Interpreter, tmp_path: Path):
    (tmp_path / "answer").write_bytes(encode(small_artifact()))

    found = compile_source("", [], TYPES, bcc_python=interpreter.does(f"cat > /dev/null; cat {tmp_path}/answer"))

    assert small_artifact() == found


def test_the_headers_are_gone_when_the_compiler_is(interpreter: Interpreter, tmp_path: Path):
    """The compiler sees the folder; nobody does afterwards."""
    script = f"""cat > /dev/null
echo "$BCC_KERNEL_SOURCE" > {tmp_path}/folder
test -d "$BCC_KERNEL_SOURCE"
exit $((4 + $?))"""

    with pytest.raises(ProbeError, match="exit status 4"):
        compile_source("", [], TYPES, bcc_python=interpreter.does(script))

    folder = (tmp_path / "folder").read_text().strip()
    assert folder
    assert not os.path.exists(folder)


def test_a_python_without_bcc_is_named_with_the_remedy(interpreter: Interpreter):
    python = interpreter.does(f'exec {sys.executable} -S "$@"')  # -S: without any installed package

    with pytest.raises(PreflightError, match="no bcc") as raised:
        identify_bcc(python)

    assert python in raised.value.what
    assert "python3-bpfcc" in raised.value.remedy


def test_another_package_of_the_name_bcc_is_not_taken_for_it(interpreter: Interpreter, tmp_path: Path):
    """PyPI's bcc is a lattice library: it imports, but has neither BPF nor libbcc."""
    package = tmp_path / "site/bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def body_centred_cubic(): pass\n")
    (package / "libbcc.py").write_text("lib = None\n")
    runs = (
        f"import runpy, sys; sys.path.insert(0, '{package.parent}'); runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    python = interpreter.does(f'exec {sys.executable} -c "{runs}" "$2"')

    with pytest.raises(PreflightError, match="another program of the name bcc"):
        identify_bcc(python)


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(PreflightError, match="/no/python3"):
        identify_bcc("/no/python3")


def test_flags_become_macros():
    flags = compiler_flags(Source("", Path("/bpf")), {"RING_PAGES": 64, "NAME": "x"})

    assert ["-I/bpf", "-DRING_PAGES=64", "-DNAME=x"] == flags[-3:]


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=1", "A\n"])
def test_a_flag_that_is_no_macro_name_is_refused(name: str):
    with pytest.raises(ValueError, match="no name for a macro"):
        compiler_flags(Source(""), {name: 1})
