"""What a lookup of a name before the call says of it: an event, and the server's name where a bare address was called.

In:   Exchange with its lookup
Out:  SpanEvent; a name
Owns: nothing
"""

import ipaddress
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.exchanges.lookups import has_waited
from otel_ebpf.telemetry.attributes import address_text, split_authority
from otel_ebpf.telemetry.clock import unix_ns
from otel_ebpf.telemetry.text import utf8

EVENT_NAME = b"dns.lookup"
_NAME_LIMIT_BYTES = 255
_NS_PER_SECOND = 1_000_000_000


class SpanEvent(NamedTuple):
    unix_ns: int
    name: bytes
    attributes: tuple[tuple[str, bytes | float | tuple[bytes, ...]], ...]


def lookup_event(exchange: Exchange, offset_ns: int) -> SpanEvent | None:
    """Of the exchange that has waited. The time is that of the question."""
    lookup = exchange.lookup
    if lookup is None or not has_waited(exchange, lookup):
        return None
    answers = (address_text(family, address) for family, address in lookup.answers)
    return SpanEvent(
        unix_ns(lookup.start_monotonic_ns, offset_ns),
        EVENT_NAME,
        (
            ("dns.question.name", utf8(lookup.name, _NAME_LIMIT_BYTES)),
            ("dns.answers", tuple(answer for answer in answers if answer is not None)),
            ("dns.lookup.duration", (lookup.end_monotonic_ns - lookup.start_monotonic_ns) / _NS_PER_SECOND),
        ),
    )


def asked_name(exchange: Exchange) -> bytes | None:
    """The name behind the address that a client has called, when the call itself names none.

    A proxy is not the server: a request in absolute form says whom it is for.
    """
    lookup = exchange.lookup
    if (
        lookup is None
        or not (lookup.is_same_thread and lookup.is_only_name)
        or not exchange.target.startswith((b"/", b"*"))
    ):
        return None
    if exchange.host:
        server = split_authority(exchange.host, exchange.scheme)
        if server is None or not _is_peer(server[0], exchange):
            return None
    return utf8(lookup.name, _NAME_LIMIT_BYTES)


def _is_peer(host: bytes, exchange: Exchange) -> bool:
    peer = address_text(exchange.family, exchange.remote_address)
    try:
        return peer is not None and ipaddress.ip_address(host.decode()) == ipaddress.ip_address(peer.decode())
    except ValueError:
        return False
