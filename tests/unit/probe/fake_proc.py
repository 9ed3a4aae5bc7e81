"""A /proc made of ordinary files, for processes that cannot be had on demand."""

from dataclasses import dataclass, field
from pathlib import Path

HOST_NETWORK = 4026531840


@dataclass
class FakeProcess:
    pid: int
    parent_pid: int = 1
    executable: str = "/usr/bin/python3.11"
    argv: tuple[str, ...] = ()
    environ: tuple[str, ...] = ()
    sockets: tuple[int, ...] = ()
    start_ticks: int = 1000
    memory_bytes: int = 1 << 20  # 0: it is ending, and its memory is gone already
    start_stack: int = 0
    state: str = "S"
    command: str = "service"
    network: int = HOST_NETWORK
    cgroup: str = "0::/user.slice\n"
    libraries: tuple[str, ...] = ()
    has_io_uring: bool = False


@dataclass
class FakeProc:
    """Rows of `listening` are (network namespace, inode, port); write() puts a process into the tree."""

    root: Path
    listening: list[tuple[int, int, int]] = field(default_factory=list)
    processes: dict[int, FakeProcess] = field(default_factory=dict)

    def add(self, process: FakeProcess) -> FakeProcess:
        self.processes[process.pid] = process
        self.write()
        return process

    def listen(self, inode: int, port: int, network: int = HOST_NETWORK) -> None:
        self.listening.append((network, inode, port))
        self.write()

    def remove(self, pid: int) -> None:
        del self.processes[pid]
        _delete(self.root / str(pid))

    def write(self) -> None:
        for process in self.processes.values():
            _delete(self.root / str(process.pid))
            self._write_process(process, self.root / str(process.pid))

    def _write_process(self, process: FakeProcess, folder: Path) -> None:
        for name in ("fd", "ns", "net"):
            (folder / name).mkdir(parents=True)
        times, memory = [*[0] * 17, process.start_ticks], [process.memory_bytes, *[0] * 4, process.start_stack]
        fields = [process.state, process.parent_pid, *times, *memory, 0]
        (folder / "stat").write_text(f"{process.pid} ({process.command}) {' '.join(map(str, fields))}\n")
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in process.argv))
        (folder / "environ").write_bytes(b"".join(word.encode() + b"\0" for word in process.environ))
        (folder / "status").write_text("Name:\tservice\nUid:\t0\t33\t0\t0\nNSpid:\t123\t7\n")
        (folder / "cgroup").write_text(process.cgroup)
        if process.memory_bytes:
            (folder / "exe").symlink_to(process.executable)
        (folder / "cwd").symlink_to("/srv/shop")
        (folder / "root").symlink_to("/")
        (folder / "ns/net").symlink_to(f"net:[{process.network}]")
        (folder / "fd/0").symlink_to("/dev/null")
        for number, inode in enumerate(process.sockets, 3):
            (folder / f"fd/{number}").symlink_to(f"socket:[{inode}]")
        (folder / "maps").write_text(memory_map([process.executable, *process.libraries]))
        if process.has_io_uring:
            (folder / "fd/99").symlink_to("anon_inode:[io_uring]")
        rows = [(inode, port) for network, inode, port in self.listening if network == process.network]
        (folder / "net/tcp").write_text(tcp_table(rows))
        (folder / "net/tcp6").write_text(tcp_table([]))


def memory_map(files: list[str]) -> str:
    """As the kernel prints it: each file in several parts, and parts of no file."""
    lines = []
    for at, file in enumerate(files):
        start = 0x7F0000000000 + at * 0x100000
        for part, rights in enumerate(("r--p", "r-xp", "rw-p")):
            first = start + part * 0x1000
            lines.append(f"{first:x}-{first + 0x1000:x} {rights} {part * 0x1000:08x} fe:00 {1000 + at}  {file}")
        lines.append(f"{start + 0x3000:x}-{start + 0x4000:x} rw-p 00000000 00:00 0 ")
    return "\n".join(lines) + "\n"


def tcp_table(listening: list[tuple[int, int]], connected: list[tuple[int, int]] = []) -> str:  # noqa: B006
    """As the kernel prints it: listening sockets first."""
    lines = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"]
    rows = [(inode, port, "0A") for inode, port in listening] + [(inode, port, "01") for inode, port in connected]
    lines += [
        f"{number:4}: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000"
        f"     0        0 {inode} 1 0000000000000000 100 0 0 10 0"
        for number, (inode, port, state) in enumerate(rows)
    ]
    return "\n".join(lines) + "\n"


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _delete(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
