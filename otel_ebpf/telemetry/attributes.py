"""Values of the stable HTTP semantic conventions (v1.44), from what stood on the wire.

In:   request-target, Host, X-Forwarded-For, addresses, status, outcome
Out:  the parts that span attributes are made of, as valid UTF-8
Owns: nothing

Unknown is None, never a guess. Secrets leave here redacted: query values of known keys, credentials in URLs.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from otel_ebpf.exchanges.exchange import Outcome, Role

AF_UNIX = 1

# RFC 9110 section 9, PATCH (RFC 5789) and QUERY.
KNOWN_METHODS = frozenset(
    (b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"QUERY", b"TRACE")
)
OTHER_METHOD = b"_OTHER"

REDACTED = b"REDACTED"
# Lower case, `-` as `_`. The first line is the conventions' list; the rest is what services put secrets under.
SECRET_KEYS = frozenset(
    b"""awsaccesskeyid signature sig x_goog_signature
    x_goog_credential x_amz_signature x_amz_credential x_amz_security_token
    token access_token refresh_token id_token auth_token authtoken csrf_token bearer jwt assertion client_assertion
    api_key apikey x_api_key key access_key secret_key private_key secret client_secret password passwd pwd pass
    passphrase auth authorization credential credentials code otp
    session session_id sessionid sid sessid phpsessid jsessionid""".split()
)
_PAIR = re.compile(
    rb"(?<![^&;])([^&;=]*)=[^&;]*"
)  # looked for where one may begin only: else a long name costs its square
_CACHED_KEY_BYTES = 64
_KEY_PARTS = re.compile(rb"[\[\].]+")

DEFAULT_PORTS = {b"http": 80, b"https": 443}
_MAPPED_IPV4 = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 peer of a dual-stack socket


class Target(NamedTuple):
    """A request-target taken apart, RFC 9112 section 3.2."""

    scheme: bytes
    authority: bytes | None  # of the absolute or authority form, credentials included
    path: bytes | None  # None: the authority form has none
    query: bytes | None


def split_target(method: bytes, target: bytes, scheme: bytes = b"http") -> Target:
    """All four forms; `scheme` is the connection's. What fits none is taken for a path, as servers do."""
    if target.startswith(b"/") or target == b"*":
        path, mark, query = target.partition(b"?")
        return Target(scheme, None, path, query if mark else None)
    if method == b"CONNECT":
        return Target(scheme, target, None, None)
    named, found, rest = target.partition(b"://")
    if not found or not named.isalnum():
        path, mark, query = target.partition(b"?")
        return Target(scheme, None, path, query if mark else None)
    before_query, mark, query = rest.partition(b"?")
    authority, slash, path = before_query.partition(b"/")
    named = named.lower()
    return Target(named if named in DEFAULT_PORTS else scheme, authority, slash + path or b"/", query if mark else None)


def redact_query(query: bytes, secret_keys: frozenset[bytes] = SECRET_KEYS) -> bytes:
    """The query with the values of secret keys replaced; keys stay, so does the order."""
    if b"=" not in query:
        return query
    if not any(is_secret_key(key, secret_keys) for key in _PAIR.findall(query)):
        return query
    return _PAIR.sub(lambda pair: pair[1] + b"=" + REDACTED if is_secret_key(pair[1], secret_keys) else pair[0], query)


def is_secret_key(key: bytes, secret_keys: frozenset[bytes] = SECRET_KEYS) -> bool:
    """`access%5Ftoken`, `Access-Token` and `user[password]` are secrets as well."""
    return (_cached_is_secret if len(key) <= _CACHED_KEY_BYTES else _is_secret)(key, secret_keys)


def with_secret_keys(more: Iterable[str]) -> frozenset[bytes]:
    """SECRET_KEYS and those of the user, in the form that keys are looked up by."""
    return SECRET_KEYS.union(_key_name(key.encode()) for key in more)


def _key_name(key: bytes) -> bytes:
    return unquote_to_bytes(key).replace(b"-", b"_").lower().strip()


def _is_secret(key: bytes, secret_keys: frozenset[bytes]) -> bool:
    name = _key_name(key)
    return name in secret_keys or not secret_keys.isdisjoint(_KEY_PARTS.split(name))


_cached_is_secret = lru_cache(maxsize=2048)(_is_secret)


def without_credentials(authority: bytes) -> bytes:
    """`user:secret@host` -> `REDACTED:REDACTED@host`, as the conventions write it."""
    credentials, at, host = authority.rpartition(b"@")
    if not at:
        return authority
    return (b"REDACTED:REDACTED@" if b":" in credentials else b"REDACTED@") + host


def split_authority(authority: bytes, scheme: bytes) -> tuple[bytes, int] | None:
    """(host, port) of a Host header; the scheme's own port when it names none. None when it is no authority."""
    host = authority.rpartition(b"@")[2].strip()
    port = b""
    if host.startswith(b"["):
        host, bracket, after = host[1:].partition(b"]")
        if not bracket or (after and not after.startswith(b":")):
            return None
        port = after[1:]
    elif b":" in host:
        host, _, port = host.partition(b":")
    if not host or (port and not (port.isdigit() and len(port) <= 5 and int(port) <= 65535)):
        return None
    return host, int(port) if port else DEFAULT_PORTS[scheme]


def address_text(family: int, address: bytes) -> bytes | None:
    """A socket address as text; None where the family has none or it was not seen."""
    if family == AF_INET:
        return inet_ntop(AF_INET, address[:4]).encode("ascii") if any(address[:4]) else None
    if family == AF_INET6 and any(address):
        if address.startswith(_MAPPED_IPV4):
            return inet_ntop(AF_INET, address[12:16]).encode("ascii")
        return inet_ntop(AF_INET6, address).encode("ascii")
    return None


def first_forwarded(forwarded_for: bytes) -> bytes | None:
    """The first element of X-Forwarded-For, without a port."""
    first = forwarded_for.partition(b",")[0].strip()
    if first.startswith(b"["):
        first = first[1:].partition(b"]")[0]
    elif first.count(b":") == 1:
        first = first.partition(b":")[0]
    return first or None


# error.type where no status code names the error. An end that was not seen is not known to be one, and a client that
# leaves during the response may have had what it wanted.
FAILED_OUTCOMES = {Outcome.SERVER_CLOSED: b"server_closed", Outcome.RESET: b"reset", Outcome.TIMEOUT: b"timeout"}
CLIENT_CLOSED = b"client_closed"  # before there was any answer


def error_type(role: Role, status: int | None, outcome: Outcome) -> bytes | None:
    """`error.type`; the span's status is Error exactly when there is one.

    4xx is the client's error only. From 600 on a code means nothing, which is an error as 5xx is.
    """
    if status is not None and status >= (400 if role is Role.CLIENT else 500):
        return b"%d" % status
    if status is None and outcome is Outcome.CLIENT_CLOSED:
        return CLIENT_CLOSED
    return FAILED_OUTCOMES.get(outcome)
