"""Parsers of settings: text of the environment in, value out, or a ValueError that says what is allowed.

Whoever catches the error knows the setting's name and its text, so neither is repeated here.
"""

import mmap
import os
import pwd
import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

PortRange = tuple[int, int]  # first and last, both included

_SAMPLER_ARGUMENT = "a number from 0 to 1, such as 0.25, or rate=0.1,slowest=0.01"
_MAX_GLOBS = 1000
_MAX_HEADERS = 64
_MAX_QUERY_KEYS = 256
_MAX_ROUTES = 1000
_MAX_ROUTES_BYTES = 32_768
NO_LIMIT_MS = 3_600_000  # a timeout of 0 means none; an hour bounds it all the same


def integer(least: int, most: int, what: str = "a whole number") -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or not least <= int(text) <= most:
            raise ValueError(f"{what} from {least} to {most}")
        return int(text)

    return parse


def one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return text.lower()

    return parse


def any_of(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(_items(text.lower()))
        if not names or set(names) - set(allowed) or ("none" in names and len(names) > 1):
            raise ValueError(f"one or more of {', '.join(allowed)}, separated by commas")
        return names

    return parse


class Listen(NamedTuple):
    """Where to listen; "" is every address of the host."""

    host: str
    port: int


def parse_listen(text: str) -> Listen:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon, port = ":", ""
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535
    if not is_port or (colon and not re.fullmatch(r"[0-9A-Za-z.:-]{1,253}", host)):
        raise ValueError("a port from 1 to 65535, or with an address such as 127.0.0.1:9464")
    return Listen(host, int(port))


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def parse_ports(text: str) -> tuple[PortRange, ...]:
    allowed = "ports from 1 to 65535 and ranges of them, such as 80,8000-8999"
    ranges = []
    for item in _items(text):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", item)
        if not match:
            raise ValueError(allowed)
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= 65535:
            raise ValueError(allowed)
        ranges.append((first, last))
    return tuple(ranges)


def parse_pids(text: str) -> tuple[int, ...]:
    if not all(re.fullmatch(r"[1-9][0-9]{0,9}", item) for item in _items(text)):
        raise ValueError("process numbers, such as 1234,5678")
    return tuple(int(item) for item in _items(text))


def parse_globs(text: str) -> tuple[str, ...]:
    """Globs separated by commas; {a,b} stands for either, as in OBI, and is written out here."""
    done: list[str] = []
    waiting = _split_outside_braces(text)
    while waiting:
        glob = waiting.pop(0)
        match = re.search(r"\{([^{}]*)\}", glob)  # an innermost pair
        if match:
            waiting[:0] = [glob[: match.start()] + choice + glob[match.end() :] for choice in match[1].split(",")]
        elif glob.strip():
            done.append(glob.strip())
        if len(waiting) + len(done) > _MAX_GLOBS:
            raise ValueError(f"no more than {_MAX_GLOBS} globs, each {{a,b}} written out")
    return tuple(dict.fromkeys(done))


def _split_outside_braces(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise ValueError("globs separated by commas, braces in pairs, such as */nginx,/opt/{api,web}/*")
    return parts


def parse_duration_ns(text: str) -> int:
    units = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
    parts = re.findall(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)", text)
    total = round(sum(float(number) * units[unit] for number, unit in parts))
    if "".join(number + unit for number, unit in parts) != text or not 0 < total <= units["h"]:
        raise ValueError("a duration from 1ms to 1h, such as 500ms, 2s or 1m30s")
    return total


def parse_timeout_ms(text: str) -> int:
    try:
        return integer(0, NO_LIMIT_MS)(text) or NO_LIMIT_MS
    except ValueError:
        raise ValueError(f"milliseconds from 0 (no limit) to {NO_LIMIT_MS}") from None


def parse_sampler_argument(text: str) -> tuple[float | None, float | None]:
    """(rate, slowest)."""
    if "=" not in text:
        return (_probability(text) if text else None), None
    found: dict[str, float] = {}
    for item in _items(text):
        name, _, value = item.partition("=")
        if name.strip() not in ("rate", "slowest") or name.strip() in found:
            raise ValueError(_SAMPLER_ARGUMENT)
        found[name.strip()] = _probability(value.strip())
    return found.get("rate"), found.get("slowest")


def _probability(text: str) -> float:
    if not re.fullmatch(r"([01](\.[0-9]{0,15})?|\.[0-9]{1,15})([eE]-[0-9]{1,2})?", text) or float(text) > 1:
        raise ValueError(_SAMPLER_ARGUMENT)
    return float(text)


def size_bytes(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,15})(KiB|MiB|GiB)?", text)
        size = int(match[1]) << {None: 0, "KiB": 10, "MiB": 20, "GiB": 30}[match[2]] if match else 0
        if not least <= size <= most:
            raise ValueError(f"bytes from {least} to {most}, or with a unit, such as 8MiB")
        return size

    return parse


def parse_ring_bytes(text: str) -> int:
    size = size_bytes(mmap.PAGESIZE, 1 << 30)(text)
    if size & (size - 1):
        raise ValueError(f"a power of two of at least {mmap.PAGESIZE} bytes (one page), such as 8MiB")
    return size


def parse_boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def parse_absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("an absolute path")
    return text


def parse_socket_path(text: str) -> str | None:
    if text.lower() == "none":
        return None
    if not text.startswith("/") or len(os.fsencode(text)) > 107:  # struct sockaddr_un
        raise ValueError("an absolute path of at most 107 bytes, or none")
    return text


def parse_file(text: str) -> str:
    if not os.path.isfile(text):
        raise ValueError("the path of a file that exists")
    return text


def parse_program(text: str) -> str:
    if not (text.startswith("/") and os.path.isfile(text) and os.access(text, os.X_OK)):
        raise ValueError("the absolute path of a program that exists")
    return text


def parse_user(text: str) -> str:
    if text.isascii() and text.isdigit():
        uid: int | None = int(text) if len(text) <= 10 and int(text) < 2**32 - 1 else None
    else:
        try:
            uid = pwd.getpwnam(text).pw_uid
        except KeyError:
            uid = None
    if not uid:
        raise ValueError("a user of this host, by name or number, other than root")
    return text


def parse_methods(text: str) -> tuple[str, ...]:
    """Names of HTTP methods, case-sensitive: RFC 9110 section 9.1."""
    methods = tuple(_items(text))
    if not methods or not all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", method) for method in methods):
        raise ValueError("a list of HTTP methods, such as GET,POST,PURGE")
    return methods


def parse_routes(text: str) -> tuple[tuple[str, str], ...]:
    """(service, pattern) each; the service is empty where a pattern is for all. See telemetry/route_patterns.py."""
    routes = []
    for item in _lines_of_file(text[1:]) if text.startswith("@") else _items(text):
        service, slash, path = item.partition("/")
        segments = path.split("/")
        is_path = bool(slash) and all(map(_is_route_segment, segments)) and segments.count("**") <= 1
        if not is_path or (service and not service.endswith(":")):
            raise ValueError(
                f"{item[:80]!r} is no route: /users/{{id}}/*.json, /files/** or service:/path, "
                "with one wildcard in a segment, and ** once, as a segment"
            )
        routes.append((service.removesuffix(":"), slash + path))
    size = sum(len((service + path).encode("utf-8", "replace")) for service, path in routes)
    if len(routes) > _MAX_ROUTES or size > _MAX_ROUTES_BYTES:
        raise ValueError(f"at most {_MAX_ROUTES} routes, of {_MAX_ROUTES_BYTES} bytes together")
    return tuple(routes)


def _is_route_segment(segment: str) -> bool:
    rest, wildcards = re.subn(r"\{[^{}*]*\}|\*|^:[A-Za-z_][A-Za-z0-9_]*", "", segment)
    return segment == "**" or (wildcards <= 1 and not re.search(r'[{}*?#"\\\s\x00-\x1f\x7f]', rest))


def _lines_of_file(path: str) -> list[str]:
    """What stands on the lines; those that begin with # are for people."""
    allowed = "@ and the absolute path of a file that exists, with one route a line, in UTF-8"
    try:
        with open(parse_absolute(path), encoding="utf-8") as file:
            lines = [line.strip() for line in file.read(4 * _MAX_ROUTES_BYTES).splitlines()]
    except (OSError, ValueError):
        raise ValueError(allowed) from None
    return [line for line in lines if line and not line.startswith("#")]


def parse_header_names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(_items(text.lower())))
    if len(names) > _MAX_HEADERS or not all(re.fullmatch(r"[!#$%&'+.^_`|~0-9a-z-]{1,256}", name) for name in names):
        raise ValueError(f"at most {_MAX_HEADERS} names of headers, each in full, such as content-type,x-request-id")
    return names


def parse_header_globs(text: str) -> tuple[str, ...]:
    globs = tuple(dict.fromkeys(_items(text.lower())))
    if len(globs) > _MAX_HEADERS or not all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]{1,256}", glob) for glob in globs):
        raise ValueError(
            f"at most {_MAX_HEADERS} names of headers, with * for any characters, such as x-customer,x-internal-*"
        )
    return globs


def parse_query_keys(text: str) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(_items(text)))
    if len(keys) > _MAX_QUERY_KEYS or not all(re.fullmatch(r"[A-Za-z0-9._~%-]{1,100}", key) for key in keys):
        raise ValueError(
            f"at most {_MAX_QUERY_KEYS} keys of queries, as they stand in URLs, such as customer,invite_code"
        )
    return keys


def parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    allowed = "name=value pairs separated by commas, values percent-encoded"
    headers = []
    for item in _items(text):
        name, equals, value = item.partition("=")
        name, value = name.strip().lower(), unquote(value.strip())
        # RFC 9110 5.6.2 and 5.5: a token, and no control characters, which could begin another header.
        if not equals or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) or re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError(allowed)
        headers.append((name, value))
    return tuple(headers)


def parse_endpoint(text: str) -> str:
    """A URL, or host:port, which only gRPC allows (checked when the protocol is known)."""
    allowed = "a URL such as http://localhost:4318, or for gRPC also host:port"
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port
    except ValueError:
        raise ValueError(allowed) from None
    if parts.scheme not in ("", "http", "https") or not parts.hostname or port == 0 or re.search(r"[\s?#]", text):
        raise ValueError(allowed)
    if not parts.scheme and (port is None or parts.path):
        raise ValueError(allowed)
    return text


def parse_exporters(text: str) -> tuple[str, ...]:
    names = tuple(_items(text.lower()))
    if not names or set(names) - {"otlp", "console", "none"} or ("none" in names and len(names) > 1):
        raise ValueError("otlp, console, both separated by a comma, or none")
    return names
