"""Names that were looked up before a connection was made, and the exchanges on that connection.

In:   lookups, as the kernel tells them with the connection that followed; exchanges
Out:  the lookup of an exchange's connection, where it is certain
Owns: the lookups of the newest connections

The name must be the one in the Host header. Where that holds an address, or none, or the call goes to a proxy, it is
enough that the thread that asked has connected itself, and that its process has met no other name with this address.
An answer that another connection turns out to have been made to as well was never certain: it is taken back from the
first one, as long as that one's first exchange has not ended.
"""

import ipaddress
import re

from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.records.kinds import Lookup

MAX_WAIT_NS = 5_000_000_000  # as MAX_LOOKUP_AGE_NS in bpf/limits.h
_NAME = re.compile(rb"[^\x00-\x20\x7f%:/?#@\[\]]+")


class Lookups:
    def __init__(self, most: int = 4096) -> None:
        self.taken = 0
        self.taken_back = 0
        self.forgotten = 0  # connections that had to make room
        self.unreadable = 0  # names that none can have
        self._most = most
        self._by_connection: dict[int, Lookup] = {}

    def add(self, lookup: Lookup) -> None:
        if not _NAME.fullmatch(lookup.name):
            self.unreadable += 1
            return
        if lookup.former_connection and self._by_connection.pop(lookup.former_connection, None) is not None:
            self.taken_back += 1
        if lookup.former_connection and not lookup.is_same_thread:
            return
        if len(self._by_connection) >= self._most:
            del self._by_connection[next(iter(self._by_connection))]
            self.forgotten += 1
        self._by_connection[lookup.connection] = lookup
        self.taken += 1

    def find(self, exchange: Exchange) -> Lookup | None:
        """Of a client's exchange; of another thread's lookup only for the one that has waited for it."""
        if not self._by_connection or exchange.role is not Role.CLIENT:
            return None
        lookup = self._by_connection.get(exchange.connection)
        if lookup is None or not (lookup.is_same_thread or has_waited(exchange, lookup)):
            return None
        is_certain = lookup.is_same_thread and lookup.is_only_name
        if names(exchange.host, lookup.name) or (is_certain and not _names_its_server(exchange)):
            return lookup
        return None


def has_waited(exchange: Exchange, lookup: Lookup) -> bool:
    """The first one on the connection, unless that was kept for later."""
    return not exchange.position and exchange.request_start_ns - lookup.end_monotonic_ns < MAX_WAIT_NS


def _names_its_server(exchange: Exchange) -> bool:
    if exchange.host is None or not exchange.target.startswith((b"/", b"*")):
        return False
    try:
        ipaddress.ip_address(_without_port(exchange.host).strip(b"[]").decode())
    except ValueError:
        return True
    return False


def names(host: bytes | None, name: bytes) -> bool:
    """Is it the name in a Host header?"""
    return host is not None and _plain(_without_port(host)) == _plain(name)


def _without_port(host: bytes) -> bytes:
    return re.sub(rb":\d*\Z", b"", host)


def _plain(name: bytes) -> bytes:
    return name.lower().removesuffix(b".")
