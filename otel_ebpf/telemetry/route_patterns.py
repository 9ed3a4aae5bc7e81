"""Routes that the user has written down: OTEL_EBPF_ROUTES.

In:   patterns, for all services or for one; a path
Out:  the first pattern that matches, as it was written
Owns: one regular expression a service

A pattern is a path. `{name}`, `:name` and `*` stand for one segment, or for what is left of one (`{name}.json`); `**` stands
for any number of segments, none included. setting_values.parse_routes sees to it that a pattern has one wildcard a segment
and one `**` at most, so matching takes time in proportion to the path's length, whatever path a client sends.
"""

import re
from collections.abc import Iterable

_WILDCARD = re.compile(r"\{[^{}]*\}|\*|^:[A-Za-z_][A-Za-z0-9_]*")

RoutePattern = tuple[str, str]  # the service it is for, empty for all; the pattern


class RoutePatterns:
    """The patterns of one service."""

    def __init__(self, patterns: Iterable[RoutePattern], service_name: str) -> None:
        routes = [pattern for service, pattern in patterns if service in ("", service_name)]
        self._routes = [route.encode("utf-8") for route in routes]
        self._regex = re.compile("|".join(f"({_regex_of(route)})" for route in routes).encode("utf-8"), re.DOTALL)

    def __bool__(self) -> bool:
        return bool(self._routes)

    def __contains__(self, route: bytes) -> bool:
        return route in self._routes

    def match(self, path: bytes) -> bytes | None:
        found = self._regex.fullmatch(path) if self._routes else None
        return None if found is None else self._routes[(found.lastindex or 1) - 1]


def _regex_of(route: str) -> str:
    written = ""
    for segment in route[1:].split("/"):
        written += "(?:/.*)?" if segment == "**" else "/" + _regex_of_segment(segment)
    return written


def _regex_of_segment(segment: str) -> str:
    found = _WILDCARD.search(segment)
    if found is None:
        return re.escape(segment)
    return re.escape(segment[: found.start()]) + "[^/]+" + re.escape(segment[found.end() :])
