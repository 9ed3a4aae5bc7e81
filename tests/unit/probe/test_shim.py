import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_ebpf.probe.btf import Btf, BtfError
from otel_ebpf.probe.c_structs import StructWriter
from otel_ebpf.probe.shim import STRUCTS, StructRow, header_folder, prologue_for_headers, shim_headers
from tests.unit.probe.btf_blob import BtfBlob, small_kernel

WANTED = {
    "sock": ("__sk_common", "sk_err", "sk_kern_sock", "sk_live", "sk_absent"),
    "sock_common": ("skc_dport", "skc_num", "skc_family"),
    "files_struct": (),
    "packed_struct": (),
    "absent": ("member",),
}
BASIC = """typedef unsigned char u8; typedef signed char s8; typedef unsigned short u16; typedef short s16;
typedef unsigned int u32; typedef int s32; typedef unsigned long long u64; typedef long long s64;
"""


def written(wanted: dict[str, tuple[str, ...]]) -> str:
    return StructWriter(Btf(small_kernel().build(), wanted), wanted).text()


def compiled(text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "a C compiler is needed"
    source = tmp_path / "source.c"
    source.write_text(text)
    return subprocess.run(
        [compiler, "-fsyntax-only", "-Wall", str(source)], capture_output=True, text=True, check=False
    )


def test_pruned_structs_keep_every_size_and_offset(tmp_path: Path):
    """A C compiler, which knows nothing of BTF, agrees with each number."""
    asserted = """
_Static_assert(sizeof(struct sock) == 32, "");
_Static_assert(__builtin_offsetof(struct sock, __sk_common.skc_num) == 10, "");
_Static_assert(__builtin_offsetof(struct sock, sk_live.counter) == 24, "");
_Static_assert(__builtin_offsetof(struct files_struct, name) == 8, "");
_Static_assert(sizeof(struct packed_struct) == 9 && __builtin_offsetof(struct packed_struct, value) == 1, "");
int use(struct files_struct *files) { return ((struct sock *)files->fdt)->sk_err; }
"""
    result = compiled(BASIC + written(WANTED) + asserted, tmp_path)

    assert (0, "") == (result.returncode, result.stderr)


def test_a_wrong_offset_stops_the_compiler(tmp_path: Path):
    """The text asserts its own layout, so a fault of the writer cannot go unnoticed."""
    text = written(WANTED).replace("__to_skc_family[12]", "__to_skc_family[10]")

    result = compiled(BASIC + text, tmp_path)

    assert 0 != result.returncode
    assert "sock_common.skc_family" in result.stderr


def test_what_a_kernel_lacks_is_left_out_and_says_so():
    text = written(WANTED)

    assert "#define HAVE_sock_sk_err 1" in text
    assert "sk_absent" not in text
    assert "struct absent" not in text
    assert "HAVE_absent" not in text


def test_a_bitfield_is_given_as_its_place():
    text = written(WANTED)

    assert "#define BITFIELD_sock_sk_kern_sock_OFFSET 130" in text
    assert "#define BITFIELD_sock_sk_kern_sock_BITS 3" in text


def test_a_struct_held_by_value_is_written_before_the_one_that_holds_it():
    text = written(WANTED)

    assert text.index("struct sock_common {") < text.index("struct sock {")


def test_exactly_the_headers_that_bcc_asks_for_are_made():
    """bcc 0.18 to 0.35; without any one of them it does not compile."""
    headers = shim_headers(Btf(small_kernel().build(), WANTED), "6.1.0-21-amd64")

    below = {"linux/kconfig.h", "linux/version.h", "asm/page.h", "linux/types.h", "linux/bpf_common.h"}
    below |= {"linux/log2.h", "uapi/linux/bpf.h", "uapi/linux/if_packet.h"}
    assert {f"include/{path}" for path in below} == set(headers)
    assert "KERNEL_VERSION(6, 1, 0)" in headers["include/linux/version.h"]
    assert "#define ENUM_TCP_LISTEN 10" in headers["include/linux/kconfig.h"]
    assert "ENUM_TCP_CLOSE" not in headers["include/linux/kconfig.h"]


def test_kernel_headers_in_place_of_btf_give_the_same_names(tmp_path: Path):
    """A member that came or went since 5.15 is looked for; Debian has the shared headers under `source`."""
    header = tmp_path / "source/include/linux/fs.h"
    header.parent.mkdir(parents=True)
    header.write_text("struct file { atomic_long_t f_count; };\n")
    row = StructRow("file", "linux/fs.h", "f_inode f_count? f_ref?")

    prologue = prologue_for_headers(tmp_path / "build", [row])

    assert "#include <linux/fs.h>" in prologue
    assert "#define HAVE_file_f_inode 1" in prologue
    assert "#define HAVE_file_f_count 1" in prologue
    assert "HAVE_file_f_ref" not in prologue


def test_each_struct_has_one_row():
    names = [row.name for row in STRUCTS]

    assert sorted(set(names)) == sorted(names)


def test_the_folder_of_headers_is_closed_to_others_and_goes_away(tmp_path: Path):
    with header_folder({"include/linux/types.h": "text"}, tmp_path) as folder:
        assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
        assert "text" == (folder / "include/linux/types.h").read_text()

    assert [] == list(tmp_path.iterdir())


def test_the_folder_of_headers_goes_away_after_an_error_too(tmp_path: Path):
    with pytest.raises(RuntimeError), header_folder({"include/linux/types.h": "text"}, tmp_path):
        raise RuntimeError

    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_a_killed_agent_left_is_removed_by_the_next_one(tmp_path: Path):
    """One that is in use, and one that was made just now, are left alone."""
    abandoned, young = tmp_path / "otel-ebpf-headers-a", tmp_path / "otel-ebpf-headers-b"
    with header_folder({"text": ""}, tmp_path) as in_use:
        for folder in (abandoned, young):
            folder.mkdir()
            (folder / "file").write_text("left")
        for folder in (abandoned, in_use):
            os.utime(folder, (1, 1))

        with header_folder({"text": ""}, tmp_path) as ours:
            assert {in_use, young, ours} == set(tmp_path.iterdir())


def test_a_struct_that_holds_itself_by_value_is_refused():
    blob = BtfBlob()
    blob.struct("sock", 8, [("inner", 1, 0)])
    wanted: dict[str, tuple[str, ...]] = {"sock": ()}

    with pytest.raises(BtfError):
        StructWriter(Btf(blob.build(), wanted), wanted).text()


@settings(max_examples=300)
@given(st.data())
def test_structs_of_a_damaged_blob_are_written_or_refused(data: st.DataObject):
    blob = bytearray(small_kernel().build())
    for _ in range(data.draw(st.integers(1, 10))):
        blob[data.draw(st.integers(24, len(blob) - 1))] = data.draw(st.integers(0, 255))

    try:
        text = StructWriter(Btf(bytes(blob), WANTED), WANTED).text()
    except BtfError as error:
        assert error.what
    else:
        assert text.endswith("\n")
