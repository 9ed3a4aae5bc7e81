"""Goes on as another program, which ends with whoever started it: `python launch.py PARENT [--read-only] COMMAND …`.

In:   the starter's pid, a command
Out:  that program, with little claim to the processor; with `--read-only` it can write no file of this host: it lives in a
      mount namespace of its own, where every mount is read-only
Owns: nothing once that runs

What serves the host's files to a guest runs read-only: nothing in a guest, root included, can change them. Sockets and
pipes that are open already are not files of a mount.
"""

import ctypes
import os
import shutil
import signal
import struct
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY = 1
SYS_MOUNT_SETATTR = 442  # since Linux 5.12, the same on every architecture
NICENESS = 10

libc = ctypes.CDLL(None, use_errno=True)


def checked(what: str, result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def make_all_mounts_read_only() -> None:
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    checked("unshare", libc.unshare(CLONE_NEWNS))
    checked("mount", libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
    checked(
        "mount_setattr",
        libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))),
    )


def main() -> None:
    parent, *command = sys.argv[1:]
    checked("prctl", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    if os.getppid() != int(parent):
        sys.exit("whoever started this has ended already")
    os.nice(NICENESS)
    if command[0] == "--read-only":
        make_all_mounts_read_only()
        del command[0]
    program = shutil.which(command[0])
    if program is None:
        sys.exit(f"{command[0]} is missing: make setup-vm installs it")
    os.execv(program, command)


if __name__ == "__main__":
    main()
