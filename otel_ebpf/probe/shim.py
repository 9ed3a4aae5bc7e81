"""The eight headers that bcc asks for, made from the running kernel's own types: no kernel headers needed.

In:   a Btf of the running kernel
Out:  {path below the kernel source folder: text}; `header_folder` puts them where only this user can read them
Owns: that folder, as long as its context lasts

bcc compiles happily against headers of another kernel version; the programs load, and read the wrong bytes. BTF is
right by definition.

The C side may ask what this kernel has, and reads bitfields by hand:
    HAVE_sock, HAVE_sock_sk_shutdown                1 when the struct or member exists, else undefined
    BITFIELD_sock_x_OFFSET, BITFIELD_sock_x_BITS    bit offset from the start of the struct, and width
    ENUM_TCP_LISTEN                                 value of the enum constant, else undefined
    PARAMETERS_tcp_recvmsg                          how many the function takes, else undefined
To use one more member, name it in its row of STRUCTS; for one more struct, add a row.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from otel_ebpf.probe.btf import Btf
from otel_ebpf.probe.c_structs import StructWriter


class StructRow(NamedTuple):
    name: str
    header: str  # of the kernel, for kernels without BTF; "": it is in none, and there the struct is missing
    members: str  # separated by blanks, with ? those that not every kernel since 5.15 has; "" for all

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.members.replace("?", "").split())


STRUCTS = (
    StructRow("pt_regs", "linux/ptrace.h", ""),
    StructRow("user_pt_regs", "linux/ptrace.h", ""),  # arm64 only: what bcc's PT_REGS macros name there
    StructRow(
        "task_struct",
        "linux/sched.h",
        "files tgid pid group_leader thread_pid nsproxy signal flags start_boottime comm real_parent thread stack",
    ),
    StructRow("thread_struct", "asm/processor.h", "fsbase?"),  # x86-64 alone has it
    StructRow("signal_struct", "linux/sched/signal.h", "live"),
    StructRow("files_struct", "linux/fdtable.h", "fdt"),
    StructRow("fdtable", "linux/fdtable.h", "max_fds fd"),
    StructRow("file", "linux/fs.h", "f_inode private_data f_op f_count? f_ref? f_ep? f_ep_links?"),
    StructRow("inode", "linux/fs.h", "i_mode i_ino i_sb"),
    StructRow("super_block", "linux/fs.h", "s_dev"),
    StructRow("socket", "linux/net.h", "sk type state file"),
    StructRow("sock", "net/sock.h", "__sk_common sk_type sk_protocol sk_shutdown sk_err sk_flags sk_socket"),
    StructRow(
        "sock_common",
        "net/sock.h",
        "skc_family skc_state skc_daddr skc_rcv_saddr skc_dport skc_num skc_v6_daddr skc_v6_rcv_saddr skc_net",
    ),
    StructRow("tcp_sock", "linux/tcp.h", "write_seq copied_seq"),
    StructRow("unix_sock", "net/af_unix.h", "peer"),
    StructRow("net", "net/net_namespace.h", "ns"),
    StructRow("pid", "linux/pid.h", "level numbers"),
    StructRow("upid", "linux/pid.h", "nr ns"),
    StructRow("pid_namespace", "linux/pid_namespace.h", "ns"),
    StructRow("ns_common", "linux/ns_common.h", "inum"),
    StructRow("in6_addr", "linux/in6.h", "in6_u"),
    StructRow("iovec", "linux/uio.h", "iov_base iov_len"),
    StructRow("user_msghdr", "linux/socket.h", ""),
    StructRow("linux_binprm", "linux/binfmts.h", "file"),
    StructRow("iov_iter", "linux/uio.h", "iter_type? type? iov_offset kvec nr_segs"),
    StructRow("msghdr", "linux/socket.h", "msg_iter msg_flags"),
    StructRow("bio_vec", "linux/bvec.h", "bv_page bv_len bv_offset"),
    StructRow("pipe_inode_info", "linux/pipe_fs_i.h", "head ring_size bufs"),
    StructRow("pipe_buffer", "linux/pipe_fs_i.h", "page offset len"),
    StructRow("page", "linux/mm_types.h", "flags"),
    StructRow("vm_area_struct", "linux/mm_types.h", "vm_file vm_flags"),
    StructRow("epitem", "", "fllink event"),
    StructRow("epoll_event", "", "data"),
)

ENUM_CONSTANTS = (
    *("TCP_ESTABLISHED", "TCP_CLOSE", "TCP_LISTEN"),
    *("ITER_UBUF", "ITER_IOVEC", "ITER_KVEC", "ITER_BVEC"),
)

FUNCTIONS = ("tcp_recvmsg",)

_BASIC_TYPES = """#pragma once
typedef unsigned char u8, __u8, uint8_t; typedef signed char s8, __s8, int8_t;
typedef unsigned short u16, __u16, uint16_t, __be16, __le16, __sum16; typedef short s16, __s16, int16_t;
typedef unsigned int u32, __u32, uint32_t, __be32, __le32, __wsum; typedef int s32, __s32, int32_t;
typedef unsigned long long u64, __u64, __be64, __le64; typedef long long s64, __s64;
typedef unsigned long uint64_t, size_t, uintptr_t; typedef long int64_t, ssize_t, intptr_t;
typedef u64 __attribute__((aligned(8))) __aligned_u64;
typedef int pid_t; typedef _Bool bool; enum { false, true };
#define NULL ((void *)0)
#define offsetof(type, member) __builtin_offsetof(type, member)
#define __always_inline inline __attribute__((always_inline))
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_ARCH_HAS_SYSCALL_WRAPPER 1  // x86-64 since 4.17, arm64 since 4.19
"""

_VERSION = """#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION({}, {}, {})
"""

# net/sock.h draws in the kernel's BPF internals, which need a newer uapi/linux/bpf.h than bcc brings ("sizeof to an
# incomplete type 'struct bpf_wq'", bcc 0.26 with 6.12's headers). Nothing here needs them: their guards keep them out.
_LEFT_OUT = "#define _LINUX_BPF_H 1\n#define __LINUX_FILTER_H__ 1\n#define _BPF_CGROUP_H 1\n"

_FOLDER_PREFIX = "otel-ebpf-headers-"
_YOUNG_SECONDS = 60

# Asked for by name in bcc's own headers, which bring all they need themselves.
_EMPTY = (
    "linux/types.h",
    "linux/bpf_common.h",
    "linux/log2.h",
    "uapi/linux/bpf.h",
    "uapi/linux/if_packet.h",
)


def read_btf(blob: bytes) -> Btf:
    return Btf(blob, (row.name for row in STRUCTS), FUNCTIONS)


def shim_headers(btf: Btf, kernel_release: str, structs: Iterable[StructRow] = STRUCTS) -> dict[str, str]:
    """Relative path to text of everything that bcc reads from a kernel source folder."""
    wanted = {row.name: row.names for row in structs}
    enums = btf.enum_constants(ENUM_CONSTANTS)
    enum_lines = "".join(f"#define ENUM_{name} {value}\n" for name, value in enums.items())
    counts = {name: btf.parameter_count(name) for name in FUNCTIONS}
    function_lines = "".join(f"#define PARAMETERS_{name} {count}\n" for name, count in counts.items() if count)
    # bcc names kconfig.h first of all on its command line: what stands there is known everywhere.
    headers = {
        "include/linux/kconfig.h": _BASIC_TYPES + StructWriter(btf, wanted).text() + enum_lines + function_lines,
        "include/linux/version.h": _VERSION.format(*_version_numbers(kernel_release)),
        "include/asm/page.h": f"#pragma once\n#define PAGE_SIZE {os.sysconf('SC_PAGESIZE')}UL\n",
    }
    return headers | {f"include/{path}": "#pragma once\n" for path in _EMPTY}


def prologue_for_headers(build: Path, structs: Iterable[StructRow] = STRUCTS) -> str:
    """What gives a source the same names when real kernel headers of exactly this kernel stand in for BTF.

    Members marked with ? are looked for in the text of their header; a wrong answer stops the compiler.
    """
    rows = [row for row in structs if row.header and row.name != "user_pt_regs"]
    includes = "".join(f"#include <{header}>\n" for header in dict.fromkeys(row.header for row in rows))
    macros = [f"HAVE_{row.name}" for row in rows]
    for row in rows:
        absent = {name for name in row.members.split() if name.endswith("?") and not _is_declared(build, row, name)}
        macros += [f"HAVE_{row.name}_{name.rstrip('?')}" for name in row.members.split() if name not in absent]
    return _LEFT_OUT + includes + "".join(f"#define {macro} 1\n" for macro in macros)


def _is_declared(build: Path, row: StructRow, name: str) -> bool:
    """Debian keeps what all builds share in a second folder."""
    word = re.compile(rf"\b{name.rstrip('?')}\b")
    paths = (folder / "include" / row.header for folder in (build, build.parent / "source"))
    return any(word.search(path.read_text(errors="replace")) for path in paths if path.is_file())


def _version_numbers(kernel_release: str) -> tuple[int, int, int]:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", kernel_release)
    major, minor, patch = found.groups(default="0") if found else ("0", "0", "0")
    return int(major), int(minor), int(patch)


@contextlib.contextmanager
def header_folder(headers: Mapping[str, str], parent: Path | None = None) -> Iterator[Path]:
    """A folder with these files that nobody but this user can enter; gone afterwards."""
    if parent is None:
        parent = next(folder for folder in (Path("/run"), Path("/tmp")) if os.access(folder, os.W_OK))
    _remove_abandoned(parent)
    root = parent / f"{_FOLDER_PREFIX}{os.urandom(8).hex()}"
    root.mkdir(mode=0o700)
    lock = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # says that somebody still works here
        for relative_path, text in headers.items():
            path = root / relative_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        yield root
    finally:
        _remove(root)
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Folders of agents that were killed: nobody holds their lock."""
    for root in parent.glob(f"{_FOLDER_PREFIX}*"):
        try:
            facts = root.lstat()
            lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or just removed by its owner
        try:
            is_old = time.time() - facts.st_mtime > _YOUNG_SECONDS  # a younger one may be about to be locked
            if facts.st_uid == os.geteuid() and is_old:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(root)
        except OSError:
            continue  # in use
        finally:
            os.close(lock)


def _remove(root: Path) -> None:
    for folder, subfolders, files in os.walk(root, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in subfolders:
            os.rmdir(os.path.join(folder, name))
    os.rmdir(root)
