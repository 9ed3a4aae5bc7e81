"""Header fields as attributes: those that the user has named, and secrets never in clear.

In:   the header lines of an exchange, as captured
Out:  `http.request.header.<name>` and `http.response.header.<name>`, each with all values of its field
Owns: a bounded cache: clients repeat their headers

What holds credentials by its name is REDACTED, named or not; so is what the user wants to be. In the values of others,
credentials in URLs and the values of secret keys in queries and fragments are.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.telemetry.attributes import REDACTED, SECRET_KEYS, redact_query
from otel_ebpf.telemetry.text import exceeds, utf8

VALUE_LIMIT_BYTES = 1024
MAX_VALUES = 32  # of one field
_CACHED_BLOCK_BYTES = 2048

_SECRET_NAME = re.compile(
    r"authori[sz]|authentic|cookie|token|secret|passw|passphrase|credential|session|signature|hmac|csrf|xsrf|bearer"
    r"|(?:api|access|account|private|master|functions|subscription)[-_]?key"
    r"|(?:^|[-_])(?:auth|jwt|pwd|sid|otp)(?:$|[-_])"
)
_URL_CREDENTIALS = re.compile(rb"(?<=://)[^/?#@\s]*(?=@)")
_PARTS_OF_URL = re.compile(rb"([?#])")


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Names in lower case; `sanitized` may have `*` for any characters."""

    request: tuple[str, ...] = ()
    response: tuple[str, ...] = ()
    sanitized: tuple[str, ...] = ()

    def is_secret(self, name: str) -> bool:
        return bool(_SECRET_NAME.search(name)) or any(fnmatchcase(name, glob) for glob in self.sanitized)

    @property
    def shown(self) -> frozenset[bytes]:
        """Of which any value is shown."""
        return frozenset(name.encode() for name in (*self.request, *self.response) if not self.is_secret(name))


class Found(NamedTuple):
    attributes: tuple[tuple[str, tuple[bytes, ...]], ...]
    truncated: tuple[bytes, ...]  # names of those that hold only the beginning of what was sent


NOTHING = Found((), ())


class Headers:
    def __init__(self, rules: HeaderRules, secret_keys: frozenset[bytes] = SECRET_KEYS) -> None:
        """`secret_keys`: of queries and fragments in values."""
        self.most_attributes = len(rules.request) + len(rules.response)
        self._request = _Fields("http.request.header.", rules.request, rules, secret_keys)
        self._response = _Fields("http.response.header.", rules.response, rules, secret_keys)

    def of(self, exchange: Exchange) -> Found:
        if not self.most_attributes:
            return NOTHING
        request, response = self._request.find(exchange.request_headers), self._response.find(exchange.response_headers)
        return Found(request.attributes + response.attributes, request.truncated + response.truncated)


class _Fields:
    """Of one direction."""

    def __init__(self, prefix: str, names: Iterable[str], rules: HeaderRules, secret_keys: frozenset[bytes]) -> None:
        self._secret_keys = secret_keys
        self._keys = {name.encode(): (prefix + name, rules.is_secret(name)) for name in names}
        # RFC 9112 section 5.2: a line that begins with white space goes on with the field before.
        field = rb"^(%b):(.*(?:\n[ \t].*)*)" % b"|".join(map(re.escape, self._keys))
        self._field = re.compile(field, re.IGNORECASE | re.MULTILINE)
        self._find_cached = lru_cache(maxsize=512)(self._find)

    def find(self, block: bytes) -> Found:
        if not self._keys or not block:
            return NOTHING
        return self._find_cached(block) if len(block) <= _CACHED_BLOCK_BYTES else self._find(block)

    def _find(self, block: bytes) -> Found:
        values: dict[bytes, list[bytes]] = {name: [] for name in self._keys}
        for field in self._field.finditer(block):
            values[field[1].lower()].append(b" ".join(line.strip() for line in field[2].split(b"\n")))
        attributes, truncated = [], []
        for name, (key, is_secret) in self._keys.items():
            found = values[name]
            shown = [REDACTED if is_secret else self._without_secrets(value) for value in found[:MAX_VALUES]]
            if shown:
                attributes.append((key, tuple(utf8(value, VALUE_LIMIT_BYTES) for value in shown)))
            if len(found) > MAX_VALUES or any(exceeds(value, VALUE_LIMIT_BYTES) for value in shown):
                truncated.append(key.encode())
        return Found(tuple(attributes), tuple(truncated))

    def _without_secrets(self, value: bytes) -> bytes:
        """`Location: https://u:p@host/?code=1#access_token=2`."""
        if b"://" in value and b"@" in value:
            value = _URL_CREDENTIALS.sub(_redacted_credentials, value)
        if b"=" not in value:
            return value
        first, *rest = _PARTS_OF_URL.split(value)
        return first + b"".join(redact_query(part, self._secret_keys) for part in rest)


def _redacted_credentials(found: re.Match[bytes]) -> bytes:
    return REDACTED + b":" + REDACTED if b":" in found[0] else REDACTED
