"""Keeps compiled programs from one start to the next, so that a warm start needs neither bcc nor LLVM.

In:   a key over everything that the result depends on, and an artifact to keep
Out:  the artifact kept under that key, if it is there, whole, and compiled by the compiler that is still installed
Owns: the files in its folder

What is read here is loaded into the kernel, so the folder and each file must belong to this user and be closed to all
others; names are opened relative to the folder's descriptor and never through a link. Anything odd is reported with
one line and treated as absent: the caller compiles anew.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from otel_ebpf.probe.artifact import Artifact, ArtifactError, Compiler, decode, encode

DEFAULT_FOLDER = Path("/var/cache/otel-ebpf")
MAX_ENTRIES = 8  # kernels and versions of the agent that take turns on one host; some 100 KB each
MAX_ENTRY_BYTES = 64 << 20

_FORMAT = b"otel-ebpf bytecode 1\n"
_DIGEST_BYTES = 32
_SUFFIX = ".bytecode"
_TEMPORARY_SUFFIX = ".new"

Report = Callable[[str], None]


class _OddError(Exception):
    """Why something in the cache is not to be trusted."""


def cache_key(parts: Iterable[bytes]) -> str:
    """One digest over all parts; the lengths keep them apart."""
    digest = sha256(_FORMAT)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def load_entry(folder: Path, key: str, report: Report) -> Artifact | None:
    """The artifact kept under this key, or None."""
    try:
        with _opened_folder(folder) as folder_fd:
            artifact = _read_entry(folder_fd, key)
            os.utime(key + _SUFFIX, dir_fd=folder_fd, follow_symlinks=False)  # used: the last to be pruned
            return artifact
    except FileNotFoundError:
        return None
    except (OSError, _OddError, ArtifactError) as error:
        report(f"ignoring the bytecode cache {folder}: {_reason(error)}")
        return None


def store_entry(folder: Path, key: str, artifact: Artifact, report: Report) -> None:
    """Keeps the artifact; a cache that cannot be written costs time at the next start, nothing else."""
    content = _FORMAT + _entry_digest(key, payload := encode(artifact)) + payload
    temporary = f"{key}.{os.urandom(8).hex()}{_TEMPORARY_SUFFIX}"
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened_folder(folder) as folder_fd:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder_fd), "wb") as file:
                    file.write(content)
                os.rename(temporary, key + _SUFFIX, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
            except OSError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder_fd)
                raise
            _prune(folder_fd)
    except (OSError, _OddError) as error:
        report(f"cannot keep the compiled probes in {folder}: {_reason(error)}")


def describe(folder: Path) -> tuple[bool, str]:
    """Can the cache be used, and its state in words."""
    try:
        with _opened_folder(folder) as folder_fd:
            count = sum(name.endswith(_SUFFIX) for name in os.listdir(folder_fd))
        return True, f"{folder}, {count} kept"
    except FileNotFoundError:
        return True, f"{folder}, not there yet"
    except (OSError, _OddError) as error:
        return False, f"{folder}, not usable: {_reason(error)}"


def is_current(compiler: Compiler) -> bool:
    """Are the files of the compiler still the ones that were used?"""
    for file in compiler.files:
        try:
            facts = os.stat(file.path)
        except OSError:
            return False  # gone or moved: another compiler, if there is one
        if (facts.st_size, facts.st_mtime_ns, facts.st_ino) != (file.size_bytes, file.modified_ns, file.inode):
            return False
    return bool(compiler.files)


@contextlib.contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_owner_and_mode(folder_fd, "the folder")
        yield folder_fd
    finally:
        os.close(folder_fd)


def _read_entry(folder_fd: int, key: str) -> Artifact:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: a FIFO must not stop the start
    with os.fdopen(os.open(key + _SUFFIX, flags, dir_fd=folder_fd), "rb") as file:
        facts = _check_owner_and_mode(file.fileno(), "an entry")
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size > MAX_ENTRY_BYTES:
            raise _OddError("an entry is no ordinary file")
        content = file.read(MAX_ENTRY_BYTES)
    header_bytes = len(_FORMAT) + _DIGEST_BYTES
    payload = content[header_bytes:]
    if content[: len(_FORMAT)] != _FORMAT:
        raise _OddError("an entry is of another format")
    if content[len(_FORMAT) : header_bytes] != _entry_digest(key, payload):
        raise _OddError("an entry does not match its digest")
    artifact = decode(payload)
    if not is_current(artifact.compiler):
        raise _OddError("an entry was made by another installation of bcc")
    return artifact


def _entry_digest(key: str, payload: bytes) -> bytes:
    """Over the key too: an entry under another's name is refused."""
    return sha256(key.encode() + payload).digest()


def _check_owner_and_mode(fd: int, what: str) -> os.stat_result:
    facts = os.fstat(fd)
    if facts.st_uid != os.geteuid():
        raise _OddError(f"{what} belongs to user {facts.st_uid}, not {os.geteuid()}")
    if facts.st_mode & 0o077:
        raise _OddError(f"{what} is open to others (mode {stat.S_IMODE(facts.st_mode):o}); chmod go= it")
    return facts


def _prune(folder_fd: int) -> None:
    """Removes the entries that were used longest ago, and what an interrupted start left."""
    by_age = []
    for name in os.listdir(folder_fd):
        if name.endswith(_TEMPORARY_SUFFIX):
            os.unlink(name, dir_fd=folder_fd)
        elif name.endswith(_SUFFIX):
            by_age.append((os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mtime_ns, name))
    for _, name in sorted(by_age)[:-MAX_ENTRIES]:
        os.unlink(name, dir_fd=folder_fd)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
