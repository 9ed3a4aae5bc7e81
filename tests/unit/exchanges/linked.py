"""Connections between watched processes, as the kernel's records tell of them: calls whose truth is what a test says."""

from dataclasses import dataclass, field
from itertools import count

from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.records.kinds import Kind, LinkEvidence, Record, RecordFlag

LOOPBACK = bytes((127, 0, 0, 1)).ljust(16, b"\0")
MAPPED = bytes(10) + b"\xff\xff" + bytes((127, 0, 0, 1))
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SERVICE = 7


@dataclass
class Wire:
    """Both ends of one connection, with the numbers that the kernel gives them."""

    client: int
    server: int
    client_port: int = 40000
    server_port: int = 8080
    client_address: bytes = LOOPBACK
    server_address: bytes = LOOPBACK
    client_family: int = AF_INET
    server_family: int = AF_INET
    client_namespace: int = 1
    server_namespace: int = 1
    first_sequence: int = 0  # 0: one of its own
    flags: int = RecordFlag.ROLE_BY_CONNECTION
    is_caller_watched: bool = False  # the kernel says so: the client's record will come
    sent_bytes: int = 0
    calls: int = 0

    def __post_init__(self) -> None:
        self.first_sequence = self.first_sequence or (1 + 1_000_003 * self.client) % 2**32

    def call(
        self,
        target: str = "/",
        *,
        headers: str = "",
        parent: tuple[int, int] | None = None,
        evidence: int = LinkEvidence.CONTEXT,
        service: int = SERVICE,
    ) -> "Call":
        """The next request. `parent`: connection and position of the server's exchange under which it begins."""
        request = f"GET {target} HTTP/1.1\r\n{headers}\r\n".encode()
        made = Call(self, self.calls, request, self.first_sequence + self.sent_bytes, parent, evidence, service)
        self.calls += 1
        self.sent_bytes += len(request)
        return made


@dataclass
class Call:
    wire: Wire
    position: int
    request: bytes
    sequence: int
    parent: tuple[int, int] | None
    evidence: int
    service: int = SERVICE
    clock: "count[int]" = field(default_factory=lambda: count(1_000_000, 1_000_000))

    @property
    def asked(self) -> Record:
        """The client's request."""
        return self._record(Role.CLIENT, Kind.REQUEST, self.request)

    @property
    def read(self) -> Record:
        """The same, at the server's."""
        return self._record(Role.SERVER, Kind.REQUEST, self.request)

    @property
    def answered(self) -> Record:
        return self._record(Role.SERVER, Kind.RESPONSE, ANSWER)

    @property
    def heard(self) -> Record:
        """The answer, at the client's."""
        return self._record(Role.CLIENT, Kind.RESPONSE, ANSWER)

    @property
    def server(self) -> tuple[int, int]:
        return self.wire.server, self.position

    @property
    def client(self) -> tuple[int, int]:
        return self.wire.client, self.position

    def _record(self, role: Role, kind: Kind, payload: bytes) -> Record:
        wire, is_server, is_request = self.wire, role is Role.SERVER, kind is Kind.REQUEST
        here = (wire.server_address, wire.server_port), (wire.client_address, wire.client_port)
        (local, local_port), (remote, remote_port) = here if is_server else here[::-1]
        family = wire.server_family if is_server else wire.client_family
        parent, evidence = (0, 0), int(LinkEvidence.NONE)
        if is_request and not is_server and self.parent is not None:
            parent, evidence = self.parent, self.evidence
        if is_request and is_server and family == AF_UNIX:
            parent, evidence = (wire.client, self.position), LinkEvidence.CONNECTION
        sequence = wire.first_sequence if wire.flags & RecordFlag.TLS else self.sequence
        at_ns = next(self.clock)
        return Record(
            kind=kind,
            lost=0,
            role=role,
            family=family,
            reason=0,
            flags=wire.flags
            | (RecordFlag.CALLER_WATCHED if is_request and is_server and wire.is_caller_watched else 0),
            captured_bytes=len(payload),
            pid=self.service,
            tid=self.service,
            service_pid=self.service,
            position=self.position,
            connection=wire.server if is_server else wire.client,
            at_monotonic_ns=at_ns,
            request_bytes=len(self.request),
            response_bytes=0 if is_request else len(payload),
            request_last_monotonic_ns=at_ns,
            response_last_monotonic_ns=0 if is_request else at_ns,
            total_bytes=len(payload),
            local_port=local_port if family != AF_UNIX else 0,
            remote_port=remote_port if family != AF_UNIX else 0,
            local_address=local if family != AF_UNIX else bytes(16),
            remote_address=remote if family != AF_UNIX else bytes(16),
            tail=payload[-8:],
            chunk_payload_bytes=0,
            parent_connection=parent[0],
            parent_position=parent[1],
            parent_evidence=evidence,
            network_namespace=(wire.server_namespace if is_server else wire.client_namespace) if is_request else 0,
            sequence=sequence if is_request and family != AF_UNIX else 0,
            payload=payload,
        )
