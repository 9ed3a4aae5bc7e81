"""What crosses from the privileged to the unprivileged side, as Python sees it.

`Record` is one struct from the ring buffer; `ServiceIdentity` and `CounterReading` are made in user space by the
probe and sent as frames. Nothing here interprets bytes of the network.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple


class Kind(IntEnum):
    REQUEST = 1
    REQUEST_MORE = 2
    RESPONSE = 3
    END = 4


class LookupKind(IntEnum):
    """Of the one record with a layout of its own."""

    LOOKUP = 5


class EndReason(IntEnum):
    NONE = 0
    NEXT_REQUEST = 1
    CLOSED = 2
    PEER_CLOSED = 3
    RESET = 4
    NOT_HTTP = 5
    SOCKET_GONE = 6
    TIMED_OUT = 7
    NEXT_RESPONSE = 8


class RecordFlag(IntFlag):
    ROLE_BY_CONNECTION = 1
    PEER_SHUTDOWN = 2
    PAYLOAD_IS_END = 4
    CHUNKS_FOLLOWED = 8
    CHUNKS_ENDED = 16
    REQUEST_CHUNKS_ENDED = 32
    TLS = 64
    UNSENT = 128
    CALLER_WATCHED = 128  # REQUEST


LINK_MAY_ERR = (
    0x100  # in `parent_evidence`: what sent it was made under its parent, and may work for another one by now
)


class LinkEvidence(IntEnum):
    """On what the parent of an exchange rests."""

    NONE = 0
    THREAD = 1
    CONTEXT = 2
    EXECUTOR = 3
    GREENLET = 4
    GOROUTINE = 5
    PROCESS = 6
    UPSTREAM = 7
    CALLBACK = 8
    CONNECTION = 9
    HANDLER = 10
    REQUEST_CONTEXT = 11


class Record(NamedTuple):
    """One record of the kernel and the bytes captured with it; see bpf/records.h for each field."""

    kind: int
    lost: int
    role: int
    family: int
    reason: int
    flags: int
    captured_bytes: int
    pid: int
    tid: int
    service_pid: int
    position: int
    connection: int
    at_monotonic_ns: int
    request_bytes: int
    response_bytes: int
    request_last_monotonic_ns: int
    response_last_monotonic_ns: int
    total_bytes: int
    local_port: int
    remote_port: int
    local_address: bytes
    remote_address: bytes
    tail: bytes
    chunk_payload_bytes: int
    parent_connection: int
    parent_position: int
    parent_evidence: int
    network_namespace: int
    sequence: int
    payload: bytes

    @property
    def link_evidence(self) -> int:
        return self.parent_evidence & ~LINK_MAY_ERR

    @property
    def request_chunks(self) -> tuple[int, int]:
        """With REQUEST_CHUNKS_ENDED: how much payload they had; how many bytes they were on the wire, modulo 2^32."""
        return self.parent_connection, self.parent_position


class Lookup(NamedTuple):
    """A name that a process asked its C library for before it made a connection; see struct lookup in bpf/records.h."""

    is_same_thread: bool
    is_only_name: bool
    pid: int
    tid: int
    connection: int
    former_connection: int  # for which it was told before, by mistake; 0: none
    start_monotonic_ns: int
    end_monotonic_ns: int
    answers: tuple[tuple[int, bytes], ...]  # family; 16 bytes, IPv4 in the first four
    name: bytes  # as it was asked for


class ProcessEventKind(IntEnum):
    EXEC = 1
    FORK = 2
    EXIT = 3
    LISTEN = 4
    MAPPED = 5


class ProcessEvent(NamedTuple):
    kind: int
    pid: int
    parent_pid: int
    port: int
    is_target: int
    command: bytes
    executable_inode: int = 0
    executable_device: int = 0
    unused: int = 0


class Counter(IntEnum):
    """Index into the kernel's counters; each counts since the agent started."""

    BEGAN = 0
    LOST_RING_FULL = 1
    LOST_CONNECTIONS_FULL = 2
    NOT_HTTP = 3
    END_RING_FULL = 4
    PROCESS_EVENTS_LOST = 5
    COMPAT_SYSCALLS = 6
    HTTP2 = 7
    TLS = 8
    IO_URING = 9
    OLDER = 10
    TLS_SEEN = 11
    TLS_UNPROVEN = 12
    CALLS_UNSEEN = 13
    LOOKUPS_RING_FULL = 14
    LOOKUPS_FAILED = 15
    ANSWERED_FIRST = 16


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """The facts that name a service, as the kernel tells them of the process that leads it.

    Raw on purpose: the unprivileged side makes names of them. `argv` and `environ` are cut to a bound and hold
    no other variables than OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    """

    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat; with pid, unique until the host restarts
    command: bytes  # /proc/PID/comm
    executable: bytes  # where /proc/PID/exe points, b"" when it cannot be read
    argv: tuple[bytes, ...]
    environ: dict[str, bytes]
    working_directory: bytes
    container_id: str  # from /proc/PID/cgroup, "" outside a container
    listening_ports: tuple[int, ...]
    owner: str  # user name, or the number


@dataclass(frozen=True, slots=True)
class CounterReading:
    """The kernel's counters at one moment, summed over CPUs, indexed by `Counter`."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """The same for some services; each row is service_pid, number of processes, counts indexed by `Counter`.

    service_pid 0 stands for the services that had no room in the kernel's table.
    """

    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Hidden:
    """What hides traffic of a service from the hooks, and the processes in which it was found; replaces what was
    told of the service before. `tls libssl.so.3` (a library that is loaded), `io_uring`, `32-bit`."""

    service_pid: int
    found: dict[str, tuple[int, ...]]
