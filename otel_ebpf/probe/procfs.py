"""Reads what /proc says of a process.

In:   a process number, in the numbering of this process's PID namespace
Out:  raw facts, or None when the process is gone or its file may not be read
Owns: nothing; every call reads anew (Snapshot keeps what one operation has read)

A process may vanish between any two calls, and its number may be given to another one: who needs facts that belong
together compares start_ticks before and after. All bytes here are chosen by other users, so every read has a bound.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

_LISTEN = b"0A"  # TCP_LISTEN in /proc/net/tcp
_SHORT_BYTES = 4096
_CHUNK_BYTES = 1 << 16
_MAX_LINKS = 4096  # of one process that are read to find io_uring: a server with 100,000 connections has as many
_MAPS_BYTES = 1 << 20
_MINOR_BITS = 20  # include/linux/kdev_t.h
_MAX_ANCESTORS = 100  # deeper trees than this are made on purpose

_WORKER_ARGV_BYTES = 1 << 14
_WORKER_ENVIRON_BYTES = 1 << 18
_MULTIPROCESSING_SPAWN = b"--multiprocessing-fork"  # CPython, multiprocessing/spawn.py
_NODE_CLUSTER_WORKER = "NODE_UNIQUE_ID"  # Node, lib/internal/cluster/primary.js

# OpenSSL and LibreSSL (libssl.so.3), NSS (libssl3.so), and others that are not of their kind.
_TLS_LIBRARY = re.compile(rb"/(lib(?:jvm|ssl|gnutls|mbedtls|wolfssl|s2n|boringssl)[\w+-]{0,60}\.so[\w.]{0,20})(?: |\n)")

# docker, containerd and CRI-O, podman, Kubernetes; cgroup v1 and v2, systemd and cgroupfs drivers: the folder is the
# id, or a runtime's name and the id. `conmon` is podman's monitor, outside its container.
_CONTAINER_ID = re.compile(rb"(?:^|/)(?![^/]*conmon)(?:[a-z0-9-]+-)?([0-9a-f]{64})(?:\.scope)?(?=/|$)", re.MULTILINE)


class Stat(NamedTuple):
    command: bytes
    state: bytes  # one letter
    parent_pid: int
    start_ticks: int
    memory_bytes: int  # of its address space
    start_stack: int  # an address, random for each exec and kept by fork; 0 or 1 where it is not told

    @property
    def is_dead(self) -> bool:
        """Its memory goes first of all (do_exit in kernel/exit.c), and with it what it runs and was started with."""
        return self.state in (b"Z", b"X") or self.memory_bytes == 0


class MappedFile(NamedTuple):
    inode: int
    device: int  # as the kernel numbers it inside: major << 20 | minor
    path: bytes  # as its process sees it


class Procfs:
    def __init__(self, root: str = "/proc") -> None:
        self._root = root

    def pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._root) if name.isdigit()]

    def stat(self, pid: int) -> Stat | None:
        text = self._read(pid, "stat", _SHORT_BYTES)
        # The command may hold spaces and parentheses; no field after it does.
        before, _, after = (text or b"").rpartition(b")")
        fields = after.split()
        if len(fields) < 26:
            return None
        return Stat(
            before.partition(b"(")[2], fields[0], int(fields[1]), int(fields[19]), int(fields[20]), int(fields[25])
        )

    def arguments(self, pid: int, limit_bytes: int) -> tuple[bytes, ...] | None:
        """argv as the process shows it; the last one is cut at the limit. A process title is one long argument."""
        text = self._read(pid, "cmdline", limit_bytes)
        if text is None:
            return None
        text = text.rstrip(b"\0")
        return tuple(text.split(b"\0")) if text else ()

    def variables(self, pid: int, names: Iterable[str], limit_bytes: int) -> dict[str, bytes] | None:
        """These variables of the environment that the process was started with; nothing else of it is kept."""
        text = self._read(pid, "environ", limit_bytes)
        if text is None:
            return None
        wanted = {name.encode(): name for name in names}
        found: dict[str, bytes] = {}
        complete = text.split(b"\0") if len(text) < limit_bytes else text.split(b"\0")[:-1]
        for entry in complete:
            name, equals, value = entry.partition(b"=")
            if equals and name in wanted:
                found.setdefault(wanted[name], value)  # the first one is what getenv() gives
        return found

    def executable(self, pid: int) -> bytes | None:
        path = self._link(pid, "exe")
        return None if path is None else path.removesuffix(b" (deleted)")

    def working_directory(self, pid: int) -> bytes | None:
        return self._link(pid, "cwd")

    def container_id(self, pid: int) -> str | None:
        """The innermost container's id, "" outside of one."""
        text = self._read(pid, "cgroup", _CHUNK_BYTES)
        if text is None:
            return None
        ids = [found.group(1) for line in text.splitlines() for found in _CONTAINER_ID.finditer(line)]
        return ids[-1].decode() if ids else ""

    def user_id(self, pid: int) -> int | None:
        """The effective one, in the agent's user namespace."""
        uids = self._status_numbers(pid, b"Uid:")
        return uids[1] if len(uids) > 1 else None

    def namespaced_pids(self, pid: int) -> tuple[int, ...]:
        """The process's numbers, from the agent's PID namespace inwards; () where the kernel does not tell."""
        return self._status_numbers(pid, b"NSpid:")

    def has_root_of(self, pid: int, other: str = "self") -> bool:
        """Whether both see the same root folder, and so the same /etc."""
        try:
            mine, its = (os.stat(f"{self._root}/{who}/root") for who in (other, pid))
        except OSError:
            return False
        return (mine.st_dev, mine.st_ino) == (its.st_dev, its.st_ino)

    def network_namespace(self, pid: int) -> bytes | None:
        return self._link(pid, "ns/net")

    def listening_ports(self, pid: int) -> dict[int, int] | None:
        """Socket inode -> port, of all that listen on TCP in the network namespace of the process.

        The kernel lists listening sockets first, so reading ends at the first row of another kind: a host with
        100,000 connections costs no more than an idle one.
        """
        found: dict[int, int] = {}
        was_read = False
        for name in ("net/tcp", "net/tcp6"):
            rest = b""
            for chunk in self._chunks(pid, name):
                was_read = True
                *lines, rest = (rest + chunk).split(b"\n")
                rows = [line.split() for line in lines]
                for row in rows:
                    if len(row) > 9 and row[3] == _LISTEN:
                        found[int(row[9])] = int(row[1].rpartition(b":")[2], 16)
                if rows and len(rows[-1]) > 9 and rows[-1][3] not in (_LISTEN, b"st"):
                    break
        return found if was_read else None

    def socket_inodes(self, pid: int) -> set[int] | None:
        folder = f"{self._root}/{pid}/fd"
        inodes: set[int] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        target = os.readlink(entry.path)
                    except OSError:
                        continue  # closed meanwhile
                    if target.startswith("socket:["):
                        inodes.add(int(target[8:-1]))
        except OSError:
            return None
        return inodes

    def tls_libraries(self, pid: int) -> set[bytes]:
        """Names of the libraries for TLS that the process has loaded, Java's machine with its own among them. What is
        linked into a program is none."""
        found: set[bytes] = set()
        rest = b""
        for chunk in self._chunks(pid, "maps"):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            found.update(_TLS_LIBRARY.findall(lines + newline))
        return found

    def has_io_uring(self, pid: int) -> bool:
        try:
            with os.scandir(f"{self._root}/{pid}/fd") as entries:
                return any(_points_to(entry.path, "anon_inode:[io_uring]") for entry in islice(entries, _MAX_LINKS))
        except OSError:
            return False

    def is_32_bit(self, pid: int) -> bool:
        """By the header of the program that it runs: EI_CLASS of elf(5)."""
        return self._read(pid, "exe", 5) == b"\x7fELF\x01"

    def mapped_files(self, pid: int) -> list[MappedFile]:
        """The files that the process has mapped to run: itself and its libraries."""
        return list(dict.fromkeys(mapped for mapped, *_ in self._mappings(pid)))

    def open_mapped(self, pid: int, mapped: MappedFile) -> int | None:
        """To read it, through the process's own root, a container's as well; None when it cannot be reached.

        Where another file is there now, the mapping itself leads to it, for who may ask: CAP_CHECKPOINT_RESTORE.
        """
        for path in self._ways_to(pid, mapped):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            if os.fstat(file).st_ino == mapped.inode:
                return file
            os.close(file)
        return None

    def open_by_any(self, pids: Iterable[int], mapped: MappedFile) -> int | None:
        """`open_mapped` by any of its users: some may have ended meanwhile."""
        ways = (self.open_mapped(pid, mapped) for pid in pids)
        return next((file for file in ways if file is not None), None)

    def _ways_to(self, pid: int, mapped: MappedFile) -> Iterator[bytes]:
        yield self.path_in_root(pid, mapped.path)
        for other, addresses, _ in self._mappings(pid):
            if (other.inode, other.device) == (mapped.inode, mapped.device):
                begin, _, end = addresses.partition(b"-")
                yield os.fsencode(f"{self._root}/{pid}/map_files/{int(begin, 16):x}-{int(end, 16):x}")
                return

    def code_shift(self, pid: int, mapped: MappedFile) -> int | None:
        """Address minus place in the file, of the code of a file that this process runs."""
        for other, addresses, offset in self._mappings(pid):
            if (other.inode, other.device) == (mapped.inode, mapped.device):
                return int(addresses.partition(b"-")[0], 16) - int(offset, 16)
        return None

    def memory(self, pid: int, address: int, count: int) -> bytes | None:
        try:
            descriptor = os.open(f"{self._root}/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.pread(descriptor, count, address)
        except (OSError, OverflowError):
            return None
        finally:
            os.close(descriptor)

    def _mappings(self, pid: int) -> Iterator[tuple[MappedFile, bytes, bytes]]:
        """Of files, to run them; each with its addresses and where in the file it begins."""
        for line in (self._read(pid, "maps", _MAPS_BYTES) or b"").splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[1][2:3] == b"x" and fields[4] != b"0":
                major, _, minor = fields[3].partition(b":")
                device = int(major, 16) << _MINOR_BITS | int(minor, 16)
                mapped = MappedFile(int(fields[4]), device, fields[5].removesuffix(b" (deleted)"))
                yield mapped, fields[0], fields[2]

    def path_in_root(self, pid: int, path: bytes) -> bytes:
        """How this process reaches a file of that one, which may be in a container."""
        return os.fsencode(f"{self._root}/{pid}/root") + path

    def _status_numbers(self, pid: int, field: bytes) -> tuple[int, ...]:
        for line in (self._read(pid, "status", _SHORT_BYTES) or b"").splitlines():
            if line.startswith(field):
                return tuple(int(number) for number in line.split()[1:])
        return ()

    def _link(self, pid: int, name: str) -> bytes | None:
        try:
            return os.readlink(os.fsencode(f"{self._root}/{pid}/{name}"))
        except OSError:
            return None

    def _read(self, pid: int, name: str, limit_bytes: int) -> bytes | None:
        parts: list[bytes] = []
        room = limit_bytes
        try:
            descriptor = os.open(f"{self._root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                while room and (chunk := os.read(descriptor, min(room, _CHUNK_BYTES))):
                    parts.append(chunk)
                    room -= len(chunk)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        return b"".join(parts)

    def _chunks(self, pid: int, name: str) -> Iterator[bytes]:
        try:
            descriptor = os.open(f"{self._root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                yield chunk
        except OSError:
            return
        finally:
            os.close(descriptor)


def _points_to(path: str, target: str) -> bool:
    try:
        return os.readlink(path) == target
    except OSError:  # closed meanwhile
        return False


class ListeningPorts:
    """Which sockets listen, by network namespace, kept until someone calls listen().

    An inherited socket listened before its heir was started, so nothing is missed between two calls of forget().
    """

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self._by_namespace: dict[bytes, dict[int, int]] = {}

    def forget(self) -> None:
        self._by_namespace.clear()

    def held_by(self, pid: int) -> dict[int, int]:
        """Socket inode -> port, of the listening sockets that the process holds."""
        inodes = self._procfs.socket_inodes(pid)
        namespace = self._procfs.network_namespace(pid) if inodes else None
        if not inodes or namespace is None:
            return {}
        listening = self._by_namespace.get(namespace)
        if listening is None:
            listening = self._procfs.listening_ports(pid)
            if listening is None:
                return {}
            self._by_namespace[namespace] = listening
        return {inode: listening[inode] for inode in inodes & listening.keys()}


class Snapshot:
    """/proc as it was while one operation looked at it: each fact is read once, when it is asked for."""

    def __init__(self, procfs: Procfs, listening: ListeningPorts) -> None:
        self._procfs = procfs
        self._listening = listening
        self._stats: dict[int, Stat | None] = {}
        self._executables: dict[int, bytes | None] = {}
        self._held: dict[int, dict[int, int]] = {}

    def stat(self, pid: int) -> Stat | None:
        """None for what is gone, zombies too."""
        if pid not in self._stats:
            found = self._procfs.stat(pid)
            self._stats[pid] = None if found is None or found.is_dead else found
        return self._stats[pid]

    def executable(self, pid: int) -> bytes | None:
        if pid not in self._executables:
            self._executables[pid] = self._procfs.executable(pid)
        return self._executables[pid]

    def is_worker(self, child: int, parent: int) -> bool:
        """Whether a process runs what its parent runs: a copy by fork, or started by it as a worker of itself.

        The same executable alone says little where it is an interpreter.
        """
        program = self.executable(child)
        if program is None or program != self.executable(parent):
            return False
        stats = self.stat(child), self.stat(parent)
        stacks = {stat.start_stack for stat in stats if stat is not None}
        if len(stacks) == 1 and min(stacks) > 1:
            return True
        argv = self._procfs.arguments(child, _WORKER_ARGV_BYTES)
        if argv and (_MULTIPROCESSING_SPAWN in argv or argv == self._procfs.arguments(parent, _WORKER_ARGV_BYTES)):
            return True
        return bool(self._procfs.variables(child, (_NODE_CLUSTER_WORKER,), _WORKER_ENVIRON_BYTES))

    def listening(self, pid: int) -> dict[int, int]:
        """Socket inode -> port, of the listening sockets that the process holds."""
        if pid not in self._held:
            self._held[pid] = self._listening.held_by(pid)
        return self._held[pid]

    def ancestors(self, pid: int) -> list[int]:
        """From the parent upwards."""
        found: list[int] = []
        stat = self.stat(pid)
        while stat is not None and stat.parent_pid > 0 and len(found) < _MAX_ANCESTORS:
            found.append(stat.parent_pid)
            stat = self.stat(stat.parent_pid)
        return found

    def descendants(self, pid: int) -> list[int]:
        """Below the process, itself not included; reads the stat of every process of the host."""
        children: defaultdict[int, list[int]] = defaultdict(list)
        for other in self._procfs.pids():
            stat = self.stat(other)
            if stat is not None:
                children[stat.parent_pid].append(other)
        found: list[int] = []
        waiting = children.pop(pid, [])
        while waiting:
            child = waiting.pop()
            found.append(child)
            waiting.extend(children.pop(child, []))
        return found
