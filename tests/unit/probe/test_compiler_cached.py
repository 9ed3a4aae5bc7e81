from pathlib import Path

import pytest

from otel_ebpf.errors import PreflightError, ProbeError
from otel_ebpf.probe.artifact import Artifact, encode
from otel_ebpf.probe.cached_compiler import prepare_all
from otel_ebpf.probe.kernel_types import KernelTypes
from otel_ebpf.probe.programs import Source
from tests.services.compiling import prepare, prepare_in_child
from tests.unit.probe.artifacts import small_artifact
from tests.unit.probe.btf_blob import small_kernel

TEXT = Source("text")


class Compiler:
    """Stands in for bcc's interpreter: answers with an artifact, and counts how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        self.count_file = folder / "count"
        self.count_file.touch()
        self.python = folder / "python3"
        (folder / "answer").write_bytes(encode(small_artifact()))
        self.python.write_text(f"#!/bin/sh\ncat > /dev/null; echo x >> {self.count_file}; cat {folder}/answer\n")
        self.python.chmod(0o755)
        self.messages: list[str] = []
        self.types = KernelTypes(small_kernel().build(), None)

    @property
    def runs(self) -> int:
        return len(self.count_file.read_text().split())

    def prepare(self, source: Source = TEXT, **flags: int) -> Artifact:
        return prepare(
            source,
            flags,
            cache_dir=self.folder,
            bcc_python=str(self.python),
            progress=self.messages.append,
            types=self.types,
        )


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    return Compiler(tmp_path)


def test_a_second_start_does_not_compile(compiler: Compiler):
    assert compiler.prepare() == compiler.prepare()
    assert 1 == compiler.runs


def test_progress_is_told_when_there_is_something_to_wait_for(compiler: Compiler):
    compiler.prepare()
    assert ["compiling the probes for"] == [message.rsplit(" ", 1)[0] for message in compiler.messages]

    compiler.prepare()
    assert 1 == len(compiler.messages)


def test_whatever_the_result_depends_on_compiles_anew(compiler: Compiler):
    """Each of these changed alone must miss the cache."""
    compiler.prepare()
    compiler.prepare(RING_PAGES=64)
    compiler.prepare(Source("other text"))
    compiler.prepare(Source("text", Path("/bpf"), "headers"))
    compiler.prepare(Source("text", Path("/bpf"), "other headers"))
    compiler.types = KernelTypes(small_kernel().build() + b"\0", None)
    compiler.prepare()

    assert 6 == compiler.runs


def test_a_damaged_entry_is_compiled_anew_and_mended(compiler: Compiler):
    compiler.prepare()
    (entry,) = compiler.folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1] + b"x")

    assert small_artifact() == compiler.prepare() == compiler.prepare()
    assert 2 == compiler.runs
    assert 1 == sum("ignoring the bytecode cache" in message for message in compiler.messages)


def test_what_is_the_matter_with_the_cache_is_told_once_for_all_parts(compiler: Compiler):
    compiler.folder.mkdir(mode=0o755)
    how = {"bcc_python": str(compiler.python), "progress": compiler.messages.append, "types": compiler.types}
    list(prepare_all([TEXT, Source("other text")], {}, cache_dir=compiler.folder, **how))

    assert 2 == compiler.runs
    said = [message.partition(str(compiler.folder))[0] for message in compiler.messages]
    assert ["ignoring the bytecode cache ", "cannot keep the compiled probes in "] == [said[0], said[-1]]
    assert 3 == len(said)


def test_without_a_folder_nothing_is_kept(compiler: Compiler):
    for _ in range(2):
        prepare(
            Source("text"),
            {},
            cache_dir=None,
            bcc_python=str(compiler.python),
            progress=compiler.messages.append,
            types=compiler.types,
        )

    assert 2 == compiler.runs


def test_a_child_brings_back_the_artifact(compiler: Compiler):
    artifact = prepare_in_child(Source("text"), {}, cache_dir=compiler.folder, bcc_python=str(compiler.python))

    assert small_artifact() == artifact


def test_an_error_in_the_child_arrives_as_it_was_raised(tmp_path: Path):
    with pytest.raises(PreflightError) as raised:
        prepare_in_child(Source("text"), {}, cache_dir=None, bcc_python=str(tmp_path / "none"))

    assert str(tmp_path / "none") in raised.value.what
    assert "python3-bpfcc" in raised.value.remedy


def test_a_child_that_is_killed_is_reported(compiler: Compiler):
    compiler.python.write_text("#!/bin/sh\nkill -9 $PPID\n")

    with pytest.raises(ProbeError, match="ended by signal 9"):
        prepare_in_child(Source("text"), {}, cache_dir=None, bcc_python=str(compiler.python))


def test_a_defect_in_the_child_is_reported_and_does_not_go_on_in_this_process(
    compiler: Compiler, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(ProbeError, match="exit status 1"):
        prepare_in_child(Source("text"), {"not a name": 1}, cache_dir=None, bcc_python=str(compiler.python))

    assert "no name for a macro" in capfd.readouterr().err
