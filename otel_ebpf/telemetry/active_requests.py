"""Requests in flight: counted when somebody looks, not as they come and go.

In:   the requests that have not ended
Out:  how many there are, by service, role and attributes
Owns: which of these there were before: they are 0 for a while, instead of gone with their last number standing

So a stream that stays open for an hour, and gives its span at its end, is seen from its beginning.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from otel_ebpf.exchanges.exchange import OpenRequest, Role
from otel_ebpf.telemetry.metrics import MAX_SERIES, OVERFLOW, Attributes, MeasuredService, request_attributes
from otel_ebpf.telemetry.resource import AttributeValue


@dataclass(frozen=True, slots=True)
class ActiveCount:
    resource: bytes
    resource_attributes: Mapping[str, AttributeValue]
    role: Role
    attributes: Attributes
    count: int


class ActiveRequests:
    def __init__(self, known_methods: frozenset[bytes], ttl_ns: int) -> None:
        self._known_methods = known_methods
        self._ttl_ns = ttl_ns
        self._seen: dict[tuple[bytes, Role, Attributes], tuple[Mapping[str, AttributeValue], int]] = {}

    def look(
        self, requests: Iterable[OpenRequest], find: Callable[[int], MeasuredService], now_unix_ns: int
    ) -> list[ActiveCount]:
        """`find` gives the service of a service_pid."""
        counts: dict[tuple[bytes, Role, Attributes], int] = {}
        services: dict[int, MeasuredService] = {}
        for request in requests:
            service = services.get(request.service_pid) or services.setdefault(
                request.service_pid, find(request.service_pid)
            )
            key = (service.resource, request.role, request_attributes(self._known_methods, request))
            if key not in self._seen and len(self._seen) >= MAX_SERIES:
                key = (service.resource, request.role, OVERFLOW)
            counts[key] = counts.get(key, 0) + 1
            self._seen[key] = service.attributes, now_unix_ns
        oldest_unix_ns = now_unix_ns - self._ttl_ns
        self._seen = {key: seen for key, seen in self._seen.items() if seen[1] >= oldest_unix_ns}
        return [ActiveCount(key[0], seen[0], *key[1:], counts.get(key, 0)) for key, seen in self._seen.items()]
