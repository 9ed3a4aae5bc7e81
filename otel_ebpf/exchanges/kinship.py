"""Which exchange caused which.

In:   runs as they begin, each with the record that it began with
Out:  the run's `kin`, where there is a link
Owns: requests whose other end has not been seen; servers' exchanges, by their numbers. Both are bounded

Two rules. The kernel says under which exchange of a server a client's request began (enum link_evidence). And when both
ends of a connection are watched, the server's exchange is the child of the client's: TCP numbers a byte alike at both
ends, so the end that comes second finds the first under the number of the request's first byte. Of a TLS connection both
know the number of its first byte, and count requests from there; a server on a Unix socket is told its client by the
kernel. Their records may come in either order: that of a call that was held up behind the other end's answer. What is not
certain (the parent was lost, or one request was sent behind another) is left out, and counted.
"""

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol, cast

from otel_ebpf.exchanges.counted_run import CountedRun
from otel_ebpf.exchanges.kin import MAX_DEPTH, NO_HEADERS, Kin, Link, ParentState, TraceHeaders
from otel_ebpf.exchanges.recent import Recent
from otel_ebpf.records.kinds import LINK_MAY_ERR, LinkEvidence, Record

MAX_RECENT = 8192  # of each kind, and as many that were there before these
_MAX_CALLING = 16384

_SERVER, _AF_UNIX, _AF_INET = 2, 1, 2
_BY_CONNECTION, _TLS, _CALLER_WATCHED = 1, 64, 128  # RecordFlag
_LINK_CONNECTION = int(LinkEvidence.CONNECTION)
# What lives on may work for another request by now, and so may what a callback has started.
_MAY_ERR = (LinkEvidence.HANDLER, LinkEvidence.PROCESS, LinkEvidence.CALLBACK)
_EVIDENCE = {int(evidence): evidence for evidence in LinkEvidence}
_OF_UNIX, _OF_TLS = 1 << 130, 1 << 131  # above all sequence numbers
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2: an IPv4 address in an IPv6 socket
_MAPPED_127 = _MAPPED + b"\x7f"
_LOOPBACK_6 = bytes(15) + b"\x01"


class Parents(Enum):
    """OTEL_EBPF_PARENTS."""

    OFF = "off"
    NORMAL = "normal"
    STRICT = "strict"  # only what cannot be another's, and while no byte of the parent's response has moved


class LinkedRun(Protocol):
    """An open run, as far as it is needed here."""

    kin: Kin | None

    @property
    def first_record(self) -> Record: ...
    @property
    def is_plain(self) -> bool:
        """Its head is whole; should it come to be none, `end` is told of it."""
        ...

    @property
    def extra(self) -> int: ...
    @property
    def is_settled(self) -> bool: ...
    @property
    def is_single(self) -> bool:
        """One request, as far as is known: the kernel's position names it."""
        ...

    @property
    def is_answered(self) -> bool: ...
    @property
    def request_line(self) -> tuple[bytes, bytes] | None: ...
    @property
    def trace_headers(self) -> TraceHeaders | None: ...


class _Awaiting(NamedTuple):
    """A server's exchange whose client is watched, and not heard of yet."""

    kin: Kin
    record: Record  # without its bytes


class Kinship:
    def __init__(self, runs: Mapping[int, Any], parents: Parents) -> None:
        """`runs`: the newest of each connection."""
        self.refused: Counter[str] = Counter()  # links that are not certain, by why
        self._runs = runs
        self._is_strict = parents is Parents.STRICT
        self._calling: set[int] = set()  # services that call others: of these an exchange may be asked for late
        # Whose other end has not been seen, by what it would be found under: their connections.
        self._clients: Recent[int] = Recent(MAX_RECENT)
        self._servers: Recent[int | _Awaiting] = Recent(MAX_RECENT)
        self._past: Recent[Kin | TraceHeaders] = Recent(MAX_RECENT)  # of servers, by connection and position

    def age(self) -> None:
        """To be called now and then."""
        for recent in (self._clients, self._servers, self._past):
            recent.age()

    def begin(self, run: LinkedRun, record: Record) -> None:
        """`record`: the run's first."""
        # Fields by their numbers: this is done for every request.
        connection = record[11]
        if record[2] == _SERVER:
            if record[9] in self._calling and run.is_plain and not run.extra:
                self._past.young[connection << 32 | record[10]] = run.trace_headers or NO_HEADERS
            key = record[28]
            if not key or record[5] & _TLS:
                key = self._numbered_key(run, record, record[24])
                if not key:
                    return
            clients = self._clients
            client = clients.young.pop(key, None)
            if client is None and clients.old:
                client = clients.old.pop(key, None)
            if client is not None:
                self._meet(run, record, client)
            elif record[5] & _CALLER_WATCHED:
                kin = self._kin_of(run)
                kin.is_awaited = True
                self._servers.young[key] = _Awaiting(kin, record._replace(payload=b""))
            else:
                self._servers.young[key] = connection
            return
        key = record[28]
        if not key or record[5] & _TLS:
            key = self._numbered_key(run, record, connection)
        if key:
            server = self._servers.pop(key)
            if server is None:
                self._clients.young[key] = connection
            else:
                self._be_met(run, record, server)
        if record[9] not in self._calling and len(self._calling) < _MAX_CALLING:
            self._calling.add(record[9])
        if record[26]:
            self._descend(run, record)

    def _numbered_key(self, run: LinkedRun, record: Record, client: int) -> int:
        """By the number of the request on a connection that was followed from its beginning; 0: not known."""
        if not record.flags & _BY_CONNECTION:
            return 0
        number = record.position + run.extra
        if record.family == _AF_UNIX:
            return _OF_UNIX | client << 32 | number if client else 0
        return _OF_TLS | record.sequence << 32 | number if record.sequence else 0

    def end(self, run: LinkedRun) -> None:
        """It was no plain one, or it ended otherwise than by the next request of its connection."""
        kin = run.kin
        if kin is not None:
            kin.end()
        record = run.first_record
        if record.role == _SERVER and not run.extra:
            key = record.connection << 32 | record.position
            self._past.pop(key)
            if run.is_settled and run.is_single:
                self._past.young[key] = kin or run.trace_headers or NO_HEADERS

    def _meet(self, run: LinkedRun, record: Record, connection: int) -> None:
        """A server's request has come to one that this connection of a client was seen to send."""
        client = self._open_run(connection)
        if client is None or client.is_settled:
            self.refused["other end not known"] += 1
            return
        kin = self._kin_of(client)
        if self._is_same(record, record.position + run.extra, client.first_record, kin.number):
            if client.is_single and run.is_single and _ask_alike(run, client):
                self._link(run, kin, LinkEvidence.CONNECTION, _state_of(client))
            else:
                self.refused["pipelined"] += 1

    def _be_met(self, run: LinkedRun, record: Record, server: int | _Awaiting) -> None:
        """The server's record was first; it may have answered by now."""
        if isinstance(server, _Awaiting):
            kin, record_of_server = server
            kin.is_awaited = False
        else:
            receiver = self._open_run(server)
            if receiver is None or receiver.is_settled:
                self.refused["other end not known"] += 1
                return
            kin, record_of_server = self._kin_of(receiver), receiver.first_record
        if self._is_same(record_of_server, kin.number, record, record.position + run.extra):
            if run.is_single:
                self._join(kin, self._kin_of(run), LinkEvidence.CONNECTION, ParentState.OPEN)
            else:
                self.refused["pipelined"] += 1

    def _is_same(self, server: Record, server_number: int, client: Record, client_number: int) -> bool:
        """Do both records tell of one request? What they were found under may be another's by chance."""
        is_same = _are_ends_of_one(server, client)
        if server.flags & _TLS or server.family == _AF_UNIX:
            is_same = is_same and server_number == client_number
        if not is_same:
            self.refused["ambiguous"] += 1
        return is_same

    def _descend(self, run: LinkedRun, record: Record) -> None:
        """A client's request that the kernel says began under a server's exchange."""
        connection, position = record.parent_connection, record.parent_position
        evidence = _EVIDENCE.get(record.link_evidence)
        if evidence is None:
            self.refused["not known on what it rests"] += 1
            return
        if self._is_strict and (evidence in _MAY_ERR or record.parent_evidence & LINK_MAY_ERR):
            self.refused["may be another's by now"] += 1
            return
        parent = self._open_run(connection)
        if parent is not None and parent.first_record.position == position:
            if parent.first_record.role != _SERVER:
                self.refused["not under a server"] += 1
            elif not parent.is_single:
                self.refused["pipelined"] += 1
            else:
                self._link(run, self._kin_of(parent), evidence, _state_of(parent))
            return
        kin = self._past_kin(connection, position)
        if kin is None:
            self.refused["parent not known"] += 1
        else:
            self._link(run, kin, evidence, ParentState.ENDED)

    def _link(self, run: LinkedRun, parent: Kin, evidence: LinkEvidence, state: ParentState) -> None:
        is_over = (
            evidence is LinkEvidence.THREAD and state is ParentState.ENDED
        )  # which says nothing of what comes behind
        if is_over or (self._is_strict and state is not ParentState.OPEN):
            self.refused["parent had answered"] += 1
        else:
            self._join(self._kin_of(run), parent, evidence, state)

    def _join(self, kin: Kin, parent: Kin, evidence: LinkEvidence, state: ParentState) -> None:
        if kin.place is not None:
            self.refused["too late"] += 1
        elif parent.depth + 1 >= MAX_DEPTH:
            self.refused["too deep"] += 1
        elif kin.link is None and kin is not parent:
            kin.link = Link(parent, evidence, state)
            kin.depth = parent.depth + 1

    def _open_run(self, connection: int) -> LinkedRun | None:
        run = self._runs.get(connection)
        return None if run is None or isinstance(run, CountedRun) else cast(LinkedRun, run)

    def _kin_of(self, run: LinkedRun) -> Kin:
        kin = run.kin
        if kin is None:
            record, headers = run.first_record, run.trace_headers
            is_server = record.role == _SERVER
            kin = Kin(record.connection, record.position + run.extra, is_server=is_server, headers=headers)
            run.kin = kin
            if headers is None:
                kin.read_from(run)
            if is_server and not run.extra:
                self._past.young[record.connection << 32 | record.position] = kin
        return kin

    def _past_kin(self, connection: int, position: int) -> Kin | None:
        key = connection << 32 | position
        found = self._past.get(key)
        if isinstance(found, TraceHeaders):
            found = Kin(connection, position, is_server=True, headers=found)
            found.is_over = True
            self._past.young[key] = found
        return found


def _state_of(run: LinkedRun) -> ParentState:
    if run.is_settled:
        return ParentState.ENDED
    return ParentState.ANSWERING if run.is_answered else ParentState.OPEN


def _ask_alike(server: LinkedRun, client: LinkedRun) -> bool:
    """Both have read the same bytes. As far as either is read yet: a head may come in pieces."""
    ours, theirs = server.request_line, client.request_line
    return ours is None or theirs is None or ours == theirs


def _are_ends_of_one(server: Record, client: Record) -> bool:
    """Addresses mirrored; those of the loopback interface are others in each network namespace."""
    if server.family == _AF_UNIX or client.family == _AF_UNIX:
        return server.family == client.family and server.parent_connection == client.connection
    address = _address(server.local_address, server.family)
    return (
        (server.sequence, server.flags & _TLS) == (client.sequence, client.flags & _TLS)
        and (server.local_port, server.remote_port) == (client.remote_port, client.local_port)
        and address == _address(client.remote_address, client.family)
        and _address(server.remote_address, server.family) == _address(client.local_address, client.family)
        and (not _is_loopback(address) or server.network_namespace == client.network_namespace != 0)
    )


def _address(address: bytes, family: int) -> bytes:
    return _MAPPED + address[:4] if family == _AF_INET else address


def _is_loopback(address: bytes) -> bool:
    """As `_address` gives it."""
    return address[:13] == _MAPPED_127 or address == _LOOPBACK_6
