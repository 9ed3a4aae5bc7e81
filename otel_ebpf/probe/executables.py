"""Which files the globs of OTEL_EBPF_AUTO_TARGET_EXE name already, so that even their first process is known at exec.

In:   globs, the file system
Out:  the path of each file, by its (inode, device) as the kernel numbers them
Owns: the bound of the search

What is not found here (a relative name outside the usual folders, a file that comes later, one in a container) is learnt
when its first process has been selected.
"""

import os
from collections.abc import Iterable, Iterator
from glob import iglob
from itertools import islice

_USUAL_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_MAX_FILES = 256  # a glob
_MINOR_BITS = 20  # of a device number inside the kernel, include/linux/kdev_t.h


def find_executables(globs: Iterable[str]) -> dict[tuple[int, int], str]:
    return {
        key: os.path.realpath(path) for pattern in globs for path in _files(pattern) if (key := _key(path)) is not None
    }


def _files(pattern: str) -> Iterator[str]:
    # fnmatch lets `*` span folders, glob does not: what a pattern begins with decides where to look.
    name = pattern.rpartition("/")[2]
    if pattern.startswith("/"):
        return islice(iglob(pattern), _MAX_FILES)
    return islice((path for folder in _USUAL_FOLDERS for path in iglob(f"{folder}/{name}")), _MAX_FILES)


def _key(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, os.major(status.st_dev) << _MINOR_BITS | os.minor(status.st_dev)
