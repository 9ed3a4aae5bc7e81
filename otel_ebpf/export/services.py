"""Which service a process number stands for, with the resource that its spans carry and the routes that it serves.

In:   identities and farewells from the probe
Out:  Service, by the pid that records name
Owns: the services that are known, and for a while those that are gone
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.export.otlp import encode_resource
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.telemetry.places import SpanPlace
from otel_ebpf.telemetry.resource import AttributeValue, HostFacts, resource_attributes
from otel_ebpf.telemetry.routes import RouteRules, Routes, RouteTable

_KEEP_GONE_NS = 60_000_000_000  # records of a service may come after the word that it has ended, and its last account


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    attributes: Mapping[str, AttributeValue]
    resource: bytes  # encoded
    routes: RouteTable


class Ended(NamedTuple):
    """An exchange that may give a span, with all that the span needs."""

    service: Service
    exchange: Exchange
    route: bytes | None
    place: SpanPlace


class Services:
    def __init__(self, host: HostFacts, distro_version: str, route_rules: RouteRules | None = None) -> None:
        self._routes = Routes(route_rules or RouteRules())
        self._host = host
        self._distro_version = distro_version
        self._by_pid: dict[int, Service] = {}
        self._gone_at_ns: dict[int, int] = {}

    def learn(self, identity: ServiceIdentity) -> None:
        self._gone_at_ns.pop(identity.pid, None)
        self._by_pid[identity.pid] = self._service(resource_attributes(identity, self._host, self._distro_version))

    def find(self, pid: int) -> Service | None:
        return self._by_pid.get(pid)

    def unknown(self) -> Service:
        """For spans of a process that nobody could look at before it ended: nothing is said that is not known."""
        attributes: dict[str, AttributeValue] = {
            "service.name": "unknown_service",
            "host.name": self._host.name,
            "telemetry.distro.name": "otel-ebpf",
            "telemetry.distro.version": self._distro_version,
        }
        return self._service(attributes)

    def say_goodbye(self, pid: int, now_ns: int) -> None:
        self._gone_at_ns[pid] = now_ns

    def forget_gone(self, now_ns: int) -> None:
        for pid, gone_at_ns in list(self._gone_at_ns.items()):
            if now_ns - gone_at_ns > _KEEP_GONE_NS:
                del self._gone_at_ns[pid]
                self._by_pid.pop(pid, None)

    def _service(self, attributes: Mapping[str, AttributeValue]) -> Service:
        name = str(attributes["service.name"])
        return Service(name, attributes, encode_resource(attributes), self._routes.of_service(name))
