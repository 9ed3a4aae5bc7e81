import os
import subprocess
import sys
from pathlib import Path

import pytest

from otel_ebpf.errors import PreflightError, ProbeError
from otel_ebpf.probe import bpf
from otel_ebpf.probe.compiler import identify_bcc
from otel_ebpf.probe.kernel_types import KernelTypes, find_kernel_types
from otel_ebpf.probe.loader import load
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import Part, SocketBackend, Source, programs_of
from tests.kernel.fragments import GETPPID, SMALL, program
from tests.kernel.test_verifier_budget import MOST_INSTRUCTIONS
from tests.services.compiling import compile_source, prepare, prepare_in_child
from tests.services.processes import children_of, is_alive, wait_until
from tests.unit.probe.btf_blob import small_kernel

FLAGS = {"PID": os.getpid(), "GETPPID": GETPPID}
AGENT_FLAGS = {"CPU_BITS": 12}

pytestmark = pytest.mark.compiles


def test_a_program_compiles_to_maps_and_code_that_name_each_other():
    """Sizes are the kernel's own: bcc's ring buffer of 4 pages has 4 pages of bytes, no key and no value."""
    artifact = prepare(SMALL, FLAGS, cache_dir=None)

    maps = {spec.name: spec for spec in artifact.maps}
    assert {"calls", "counters", "progress", "seen_calls"} == set(maps)
    assert (1, 4, 8, 64, 0) == maps["calls"][1:]
    assert (bpf.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 2, 0) == maps["counters"][1:]
    assert bpf.BPF_F_MMAPABLE == maps["progress"].creation_flags
    assert (bpf.BPF_MAP_TYPE_RINGBUF, 0, 0, 4 * os.sysconf("SC_PAGESIZE"), 0) == maps["seen_calls"][1:]
    (compiled,) = artifact.programs
    assert set(maps) == {name for _, name in compiled.map_references}


@pytest.mark.parametrize("backend", SocketBackend)
def test_the_agents_own_programs_are_verified_by_this_kernel(backend: SocketBackend, tmp_path: Path):
    """Also those for kprobes, where the kernel has none: they are of the kind that uprobes are."""
    prepared = PreparedParts(backend, AGENT_FLAGS, cache_dir=tmp_path / "cache", parts=[Part.SOCKETS])

    with load(prepared.artifact(Part.SOCKETS), programs_of(backend)) as loaded:
        assert {row.function for row in programs_of(backend)} == set(loaded.programs)
        for fd in loaded.programs.values():
            verified = bpf.program_info(fd).verified_instructions
            assert verified is None or 0 < verified < MOST_INSTRUCTIONS


def test_no_kernel_headers_are_needed(tmp_path: Path):
    """In a mount namespace of its own, /lib/modules and /usr/src are empty."""
    script = f"""
import os, sys
assert not os.path.exists("/lib/modules/" + os.uname().release) and os.listdir("/usr/src") == []
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from otel_ebpf.probe.loader import load
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import Part, SocketBackend, programs_of
backend = SocketBackend.TRACEPOINT
prepared = PreparedParts(backend, {AGENT_FLAGS!r}, cache_dir=Path({str(tmp_path / "cache")!r}))
with load(prepared.artifact(Part.SOCKETS), programs_of(backend)) as loaded:
    print(len(loaded.programs))
"""
    hide = "mkdir -p /lib/modules && mount -t tmpfs none /lib/modules && mount -t tmpfs none /usr/src"
    command = ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$0" -c "$1"', sys.executable, script]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    assert (0, f"{len(programs_of(SocketBackend.TRACEPOINT))}\n") == (done.returncode, done.stdout), done.stderr


def test_without_btf_and_headers_nothing_is_compiled(tmp_path: Path):
    with pytest.raises(PreflightError, match="no type information"):
        prepare(SMALL, FLAGS, cache_dir=None, types=find_kernel_types(tmp_path / "vmlinux", tmp_path))


def test_a_kernel_that_lacks_a_member_still_compiles_what_asks_first():
    body = """
#ifdef HAVE_sock_sk_shutdown
#error the small kernel has none
#endif
return offsetof(struct sock, sk_err);"""

    artifact = prepare(program(body), {}, cache_dir=None, types=KernelTypes(small_kernel().build(), None))

    (compiled,) = artifact.programs
    assert 20 == int.from_bytes(compiled.instructions[4:8], "little")  # r0 = 20


def test_a_mistake_in_a_fragment_is_reported_with_its_file_and_line():
    with pytest.raises(ProbeError, match=r"wrong\.c:4:\d+: error: .*'undeclared'"):
        prepare(program("int a = 1;\nreturn undeclared;"), {}, cache_dir=None)


def test_a_call_that_is_not_inlined_is_refused_by_name():
    """bcc puts each function into a section of its own; a call between them would jump to nowhere."""
    before = "static __attribute__((noinline)) int apart(int x) { return x * bpf_get_smp_processor_id(); }"

    with pytest.raises(ProbeError, match="on_sys_exit"):
        prepare(program("return apart(ctx->args[1]);", before), {}, cache_dir=None)


def test_the_interpreter_with_bcc_is_found_whatever_path_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")

    compiler = identify_bcc()

    assert compiler.bcc_version
    assert any("libbcc" in file.path for file in compiler.files)
    assert any("LLVM" in file.path for file in compiler.files)


def test_nothing_of_llvm_stays_in_this_process():
    prepare_in_child(SMALL, FLAGS, cache_dir=None)

    assert "LLVM" not in Path("/proc/self/maps").read_text()


def test_a_killed_compiler_leaves_a_clear_error_and_no_folder(tmp_path: Path):
    """A real bcc, killed in the middle of its work."""
    python = tmp_path / "python3"
    python.write_text(f"""#!/bin/sh
echo "$BCC_KERNEL_SOURCE" > {tmp_path}/folder
/usr/bin/python3 "$@" <&0 &
sleep 0.1
kill -9 $!
kill -9 $$
""")
    python.chmod(0o755)

    with pytest.raises(ProbeError, match="killed by SIGKILL"):
        compile_source(SMALL.text, [], find_kernel_types(), bcc_python=str(python))

    folder = Path((tmp_path / "folder").read_text().strip())
    assert folder.name.startswith("otel-ebpf-headers-")
    assert not folder.exists()


def test_the_compiler_dies_with_the_agent(tmp_path: Path):
    """Whoever kills the agent with signal 9 must not find a compiler at work afterwards."""
    slow = "\n".join(f"int f{number}(void *ctx) {{ return {number}; }}" for number in range(3000))
    (tmp_path / "slow.c").write_text(slow)
    script = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from tests.services.compiling import compile_source
from otel_ebpf.probe.kernel_types import find_kernel_types
compile_source(open({str(tmp_path / "slow.c")!r}).read(), [], find_kernel_types())
"""
    agent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    compiler = wait_until(lambda: children_of(agent.pid), "the compiler is started")[0]
    wait_until(lambda: "LLVM" in Path(f"/proc/{compiler}/maps").read_text(), "it works", every_s=0.005)

    agent.kill()
    agent.wait()

    wait_until(lambda: not is_alive(compiler), "it has ended")


def test_a_tampered_entry_of_the_cache_is_never_loaded(tmp_path: Path):
    messages: list[str] = []
    first = prepare(SMALL, FLAGS, cache_dir=tmp_path / "cache", progress=messages.append)
    (entry,) = (tmp_path / "cache").iterdir()
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 0xFF
    entry.write_bytes(content)
    messages.clear()

    again = prepare(SMALL, FLAGS, cache_dir=tmp_path / "cache", progress=messages.append)

    assert first.programs == again.programs
    assert ["ignoring", "compiling"] == [message.split()[0] for message in messages]


def test_a_warm_start_needs_no_bcc(tmp_path: Path):
    """Nor any other process: the chosen interpreter would fail if it were run."""
    python = tmp_path / "python3"
    python.symlink_to("/usr/bin/python3")
    first = prepare_in_child(SMALL, FLAGS, cache_dir=tmp_path / "cache", bcc_python=str(python))
    python.unlink()

    assert first == prepare_in_child(SMALL, FLAGS, cache_dir=tmp_path / "cache", bcc_python=str(python))


def test_a_source_without_programs_is_an_artifact_of_nothing():
    artifact = prepare(Source("// nothing\n"), {}, cache_dir=None)

    assert ((), ()) == (artifact.maps, artifact.programs)
