import errno
import mmap
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe import bpf, kernel_features
from otel_ebpf.probe.artifact import Artifact, MapSpec
from otel_ebpf.probe.growing_maps import growing_flag
from otel_ebpf.probe.loader import Loaded, load, load_group
from otel_ebpf.probe.maps import Map
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import LASTING_PROGRAMS, TLS_PROGRAMS, Part, programs_of
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.uprobes import UprobeForm
from tests.kernel.fragments import GETPPID, SMALL, SMALL_ROWS, program
from tests.kernel.probed import FORMS
from tests.kernel.wire import FLAGS
from tests.services.compiling import prepare

PAGE = os.sysconf("SC_PAGESIZE")


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return prepare(SMALL, {"PID": os.getpid(), "GETPPID": GETPPID}, cache_dir=None)


@pytest.fixture
def loaded(artifact: Artifact) -> Iterator[Loaded]:
    with load(artifact, SMALL_ROWS) as opened:
        yield opened


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def make_map(kind: int, key_bytes: int, value_bytes: int, max_entries: int) -> Map:
    fd = bpf.create_map(kind, key_bytes, value_bytes, max_entries, name="test")
    made = Map(fd, "test", kind, key_bytes, value_bytes, max_entries)
    if made.is_per_cpu:
        made.cpu_count = bpf.possible_cpu_count()
    return made


def test_an_attached_program_counts_in_every_kind_of_map(loaded: Loaded):
    """Seven calls, a prime number: seen in the hash, the per-CPU array, the mapped array and the ring buffer."""
    progress_map = loaded.maps["progress"]
    with mmap.mmap(progress_map.fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as progress:
        link = bpf.open_raw_tracepoint("sys_exit", loaded.programs["on_sys_exit"])
        try:
            for _ in range(7):
                os.getppid()
        finally:
            os.close(link)
        assert u64(7) == progress[:8]
    assert u64(7) == loaded.maps["calls"].lookup(u32(os.getpid()))
    per_cpu = loaded.maps["counters"].lookup_per_cpu(u32(1))
    assert per_cpu is not None
    assert bpf.possible_cpu_count() == len(per_cpu)
    assert 7 == sum(struct.unpack("=Q", value)[0] for value in per_cpu)
    records = ring_records(loaded.maps["seen_calls"])
    assert [(os.getpid(), os.getpid(), GETPPID)] * 7 == [struct.unpack("=IIQ", record) for record in records]


def ring_records(ring: Map) -> list[bytes]:
    """What the ring buffer holds; see Documentation/bpf/ringbuf.rst for its layout."""
    with mmap.mmap(ring.fd, PAGE + ring.max_entries, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE) as pages:
        (end,) = struct.unpack_from("=Q", pages, 0)
        at, records = 0, []
        while at < end:
            (header,) = struct.unpack_from("=I", pages, PAGE + at)
            length = header & 0x3FFFFFFF
            records.append(bytes(pages[PAGE + at + 8 : PAGE + at + 8 + length]))
            at += (length + 15) & ~7
        return records


def test_closing_the_link_detaches(loaded: Loaded):
    os.close(bpf.open_raw_tracepoint("sys_exit", loaded.programs["on_sys_exit"]))

    os.getppid()

    assert loaded.maps["calls"].lookup(u32(os.getpid())) is None


def test_loading_attaches_nothing(loaded: Loaded):
    os.getppid()

    assert loaded.maps["calls"].lookup(u32(os.getpid())) is None


def test_closing_gives_every_descriptor_back(artifact: Artifact):
    before = open_descriptors()

    load(artifact, SMALL_ROWS).close()

    assert before == open_descriptors()


def test_a_program_that_the_verifier_refuses_is_shown_with_its_reason():
    before = open_descriptors()
    artifact = prepare(program("return ((u64 *)ctx)[100];"), {}, cache_dir=None)

    with pytest.raises(ProbeError) as raised:
        load(artifact, SMALL_ROWS)

    assert "refuses the program on_sys_exit (Permission denied)" in raised.value.what
    assert "invalid bpf_context access off=800" in raised.value.what
    assert "processed" not in raised.value.what
    assert "report this" in raised.value.remedy
    assert before == open_descriptors()


def test_a_refusal_leaves_no_map_behind(artifact: Artifact):
    """The one of these programs that is known has brought its maps by then."""
    (known,) = artifact.programs
    before = open_descriptors()

    with pytest.raises(ProbeError, match=r"no row of .* says of which kind the program stranger is"):
        load(artifact._replace(programs=(known, known._replace(name="stranger"))), SMALL_ROWS)

    assert before == open_descriptors()


def test_a_map_that_the_kernel_refuses_is_named(artifact: Artifact):
    endless = MapSpec("calls", bpf.BPF_MAP_TYPE_RINGBUF, 0, 0, 5, 0)
    wrong = artifact._replace(maps=tuple(endless if spec.name == "calls" else spec for spec in artifact.maps))

    with pytest.raises(ProbeError, match=r"the map calls \(type 27, 5 entries\)"):
        load(wrong, SMALL_ROWS)


def map_flags(opened: Map) -> int:
    with open(f"/proc/self/fdinfo/{opened.fd}") as lines:
        (flags,) = (line.split()[1] for line in lines if line.startswith("map_flags:"))
    return int(flags, 0)


def test_hashes_take_their_memory_as_entries_come_where_the_kernel_can_do_so(loaded: Loaded):
    """What tries it is told by the kernel alone, and nothing else of a map changes."""
    assert growing_flag() == map_flags(loaded.maps["calls"])
    assert 0 == map_flags(loaded.maps["counters"])
    assert bpf.BPF_F_MMAPABLE == map_flags(loaded.maps["progress"])


def test_a_hash_that_grows_has_a_bound_all_the_same(loaded: Loaded):
    """And room again for what comes when something has left."""
    calls = loaded.maps["calls"]
    for number in range(64):
        calls.update(u32(number), u64(number))

    with pytest.raises(OSError, match=os.strerror(errno.E2BIG)):
        calls.update(u32(64), u64(64))
    assert calls.delete(u32(7))
    calls.update(u32(64), u64(64))
    assert 64 == len(calls.items())


@pytest.mark.parametrize("form", FORMS[:1], ids=lambda form: form.name.lower())
def test_maps_come_with_the_first_program_that_uses_them(prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm):
    """What watches no TLS has no room for it."""
    with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
        before = set(loaded.maps)
        load_group(prepared.artifact(Part.UPROBES), loaded, form, TLS_PROGRAMS)

        assert "connections" in before
        assert {"tls_calls", "tls_objects"} <= loaded.maps.keys() - before


def test_maps_that_drop_what_is_old_have_more_entries_for_more_processors(prepared: PreparedParts):
    """Each keeps up to 128 free ones to itself; 4,096 are for two. Of small maps there are four times as many at most."""
    entries = {spec.name: spec.max_entries for spec in prepared.artifact(Part.UPROBES).maps}

    assert 4096 + 128 * ((1 << int(FLAGS["CPU_BITS"])) - 2) == entries["tls_calls"]
    assert 4 * 256 == entries["go_newest"]


def test_a_map_is_put_into_another_one_when_it_is_needed(prepared: PreparedParts, hooks: SocketHooks):
    """Once, however often it is asked for; the programs that were loaded before find it."""
    with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
        place = loaded.maps["owner_map"]
        assert place.lookup(u32(0)) is None
        before = open_descriptors()

        loaded.provide("owner_map")
        loaded.provide("owner_map")

        inside = loaded.maps["owner_map_inside"]
        assert 1 == open_descriptors() - before
        assert place.lookup(u32(0)) is not None
        assert 32768 == inside.max_entries


@pytest.mark.parametrize("form", FORMS[:1], ids=lambda form: form.name.lower())
def test_what_cannot_be_loaded_later_leaves_nothing_behind(
    prepared: PreparedParts, hooks: SocketHooks, form: UprobeForm
):
    """Neither programs nor maps; what was there before stays."""
    whole = prepared.artifact(Part.UPROBES)
    last = [program for program in whole.programs if program.name == "on_tls_return"]
    others = [program for program in whole.programs if program.name != "on_tls_return"]
    broken = [program._replace(instructions=program.instructions[:-8]) for program in last]
    with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
        before = set(loaded.maps), set(loaded.programs), open_descriptors()

        with pytest.raises(ProbeError, match="on_tls_return"):
            load_group(whole._replace(programs=(*others, *broken)), loaded, form, TLS_PROGRAMS)

        assert before == (set(loaded.maps), set(loaded.programs), open_descriptors())


def test_the_kernel_tells_how_long_verifying_took(loaded: Loaded):
    info = bpf.program_info(loaded.programs["on_sys_exit"])

    assert SMALL_ROWS[0].kind == info.kind
    assert info.translated_bytes > 0
    assert info.verified_instructions is None or info.verified_instructions > 10


def test_a_hash_is_read_written_and_walked():
    opened = make_map(bpf.BPF_MAP_TYPE_HASH, 4, 8, 2000)
    expected = {u32(number): u64(number * number) for number in range(1500)}
    for key, value in expected.items():
        opened.update(key, value)

    assert expected == dict(opened.items())
    assert set(expected) == set(opened.keys())
    assert u64(1499**2) == opened.lookup(u32(1499))
    assert opened.delete(u32(7))
    assert not opened.delete(u32(7))
    assert opened.lookup(u32(7)) is None
    assert 1499 == len(opened.items())
    opened.close()


def test_an_array_is_walked_in_batches():
    opened = make_map(bpf.BPF_MAP_TYPE_ARRAY, 4, 8, 700)
    opened.update(u32(699), u64(5))

    entries = opened.items()

    assert [u32(number) for number in range(700)] == [key for key, _ in entries]
    assert (u32(699), u64(5)) == entries[-1]
    opened.close()


def test_an_empty_map_has_no_items():
    opened = make_map(bpf.BPF_MAP_TYPE_HASH, 4, 8, 16)

    assert [] == opened.items()
    assert [] == list(opened.keys())
    opened.close()


@pytest.mark.parametrize("value_bytes", [4, 8, 12])
def test_each_cpus_value_is_cut_to_its_own_size(value_bytes: int):
    """The kernel rounds each up to 8 bytes."""
    opened = make_map(bpf.BPF_MAP_TYPE_PERCPU_ARRAY, 4, value_bytes, 1)
    stride = (value_bytes + 7) & ~7
    written = b"".join(bytes([cpu + 1]) * value_bytes + bytes(stride - value_bytes) for cpu in range(opened.cpu_count))
    opened.update(u32(0), written)

    assert [bytes([cpu + 1]) * value_bytes for cpu in range(opened.cpu_count)] == opened.lookup_per_cpu(u32(0))
    opened.close()


def test_a_key_or_value_of_the_wrong_size_never_reaches_the_kernel():
    """The kernel would read what lies behind it."""
    opened = make_map(bpf.BPF_MAP_TYPE_HASH, 4, 8, 16)

    with pytest.raises(ValueError, match="a key of test has 4 bytes, not 3"):
        opened.lookup(b"abc")
    with pytest.raises(ValueError, match="a value of test has 8 bytes, not 4"):
        opened.update(u32(1), u32(1))
    opened.close()


def test_this_kernel_has_what_the_agent_needs():
    assert kernel_features.try_ring_buffer() is None
    assert kernel_features.try_mapped_array() is None
    assert kernel_features.try_lru_hash() is None
    assert {} == kernel_features.try_raw_tracepoints([row.attach_to for row in LASTING_PROGRAMS])


def test_a_tracepoint_that_does_not_exist_is_named():
    assert ["no_such_tracepoint"] == list(kernel_features.try_raw_tracepoints(["sys_exit", "no_such_tracepoint"]))


def test_the_check_of_the_host_leaves_no_descriptor_open():
    before = open_descriptors()

    kernel_features.try_raw_tracepoints(["sys_exit"])
    kernel_features.try_ring_buffer()

    assert before == open_descriptors()


def test_a_user_without_rights_is_told_what_needs_root(tmp_path: Path):
    """As nobody, in a process of its own: no traceback, and no lack that is only a lack of rights is called another."""
    script = """
from otel_ebpf.probe.preflight import Host, examine
for finding in examine(Host(cache_dir=None)):
    print(finding.name, finding.ok, finding.detail, finding.remedy, sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        user=65534,
        group=65534,
        extra_groups=[],
    )

    assert (0, "") == (done.returncode, done.stderr)
    rows = {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}
    assert "False" == rows["rights"][0]
    assert "CAP_BPF" in rows["rights"][2]
    for name in ("ring buffer", "tracepoint sys_exit"):
        assert ["False", "not known without root", "Run `otel-ebpf check` as root."] == rows[name]
    assert "True" == rows["bcc"][0]


@pytest.mark.compiles
def test_the_process_that_stays_is_small(tmp_path: Path):
    """It holds the programs for as long as the agent runs; compiling, hashing and BTF were a child's work."""
    script = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from otel_ebpf.probe.loader import load
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import Part, SocketBackend, programs_of
backend = SocketBackend.TRACEPOINT
prepared = PreparedParts(backend, {{"CPU_BITS": 12}}, cache_dir=Path({str(tmp_path / "cache")!r}))
loaded = load(prepared.artifact(Part.SOCKETS), programs_of(backend))
prepared.artifact(Part.UPROBES)
fields = dict(line.split(":") for line in open("/proc/self/status"))
print(fields["VmRSS"].split()[0])
assert not {{"hashlib", "subprocess", "otel_ebpf.probe.btf", "otel_ebpf.probe.cache"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    assert int(done.stdout) <= 16 * 1024


def test_the_limit_of_locked_memory_is_raised_where_it_may_be():
    """Needed before 5.11; without CAP_SYS_RESOURCE it stays, and newer kernels do not mind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)

    opened = load(Artifact((), (), prepare(SMALL, {"PID": 1, "GETPPID": 1}, cache_dir=None).compiler), ())

    opened.close()
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK) in ((soft, hard), (resource.RLIM_INFINITY,) * 2)
