"""Where and how one signal is sent: the rules of the OTLP exporter specification, applied.

In:   parsed values of the settings, by name
Out:  OtlpSettings, or what contradicts what
Owns: the rules

Each signal has its own names, OTEL_EXPORTER_OTLP_TRACES_… and OTEL_EXPORTER_OTLP_METRICS_…, which win over the common ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from otel_ebpf.proxies import proxy_for

GRPC = "grpc"
HTTP_PROTOBUF = "http/protobuf"
TRACES = "TRACES"
METRICS = "METRICS"
_PREFIX = "OTEL_EXPORTER_OTLP_"
_LONGEST_EXPORT = {TRACES: "OTEL_BSP_EXPORT_TIMEOUT", METRICS: "OTEL_METRIC_EXPORT_TIMEOUT"}


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where and how a signal is sent; every rule of the OTLP exporter specification is already applied."""

    endpoint: str  # a whole URL; for http/protobuf with its path, for gRPC scheme, host and port
    protocol: str  # GRPC or HTTP_PROTOBUF
    headers: tuple[tuple[str, str], ...]  # names in lower case
    timeout_ms: int
    compression: str  # "gzip" or "none"
    certificate: str | None
    client_key: str | None
    client_certificate: str | None
    insecure: bool  # no TLS
    proxy: str | None = None  # the URL of an HTTP proxy, with its credentials

    @property
    def endpoint_for_people(self) -> str:
        """Without credentials."""
        parts = urlsplit(self.endpoint)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def name_for(signal: str, suffix: str) -> str:
    return f"{_PREFIX}{signal}_{suffix}"


def contradictions(values: Mapping[str, Any], signal: str) -> list[tuple[str, str, str]]:
    """(name, value as shown, what is allowed) of what cannot be used together."""
    problems = []
    endpoint, protocol = _endpoint_and_protocol(values, signal)
    if endpoint and protocol == HTTP_PROTOBUF and "://" not in endpoint:
        name = name_for(signal, "ENDPOINT") if values[name_for(signal, "ENDPOINT")] else _PREFIX + "ENDPOINT"
        problems.append((name, repr(endpoint), f"a URL such as http://{endpoint}, or {_PREFIX}PROTOCOL=grpc"))
    key, certificate = (values[name_for(signal, suffix)] for suffix in ("CLIENT_KEY", "CLIENT_CERTIFICATE"))
    if bool(key) != bool(certificate):
        name = _PREFIX + "CLIENT_" + ("KEY" if key else "CERTIFICATE")
        problems.append((name, repr(key or certificate), "CLIENT_KEY and CLIENT_CERTIFICATE go together"))
    otlp = resolve(values, signal)
    if otlp is not None and otlp.proxy is not None and not otlp.proxy.startswith("http://"):
        name = "HTTP_PROXY" if otlp.insecure else "HTTPS_PROXY"
        problems.append(
            (name, "(not shown)", "an HTTP proxy, http://host:port, or a NO_PROXY that names the collector")
        )
    return problems


def resolve(values: Mapping[str, Any], signal: str) -> OtlpSettings | None:
    """None when the signal is not sent. By default it is where there is an endpoint, else to this host."""
    exporters = values[f"OTEL_{signal}_EXPORTER"]
    endpoint, protocol = _endpoint_and_protocol(values, signal)
    if "otlp" not in exporters if exporters else endpoint is None:
        return None
    endpoint = endpoint or ("http://localhost:4317" if protocol == GRPC else "http://localhost:4318")
    if "://" not in endpoint:
        endpoint = ("http://" if values[name_for(signal, "INSECURE")] else "https://") + endpoint
    if protocol == HTTP_PROTOBUF and values[name_for(signal, "ENDPOINT")] is None:
        endpoint = f"{endpoint.rstrip('/')}/v1/{signal.lower()}"
    elif protocol == HTTP_PROTOBUF and not urlsplit(endpoint).path:
        endpoint += "/"  # "if a URL has no path part, the root path / must be used"
    return OtlpSettings(
        endpoint=endpoint,
        protocol=protocol,
        headers=values[name_for(signal, "HEADERS")],
        timeout_ms=min(values[name_for(signal, "TIMEOUT")], values[_LONGEST_EXPORT[signal]]),
        compression=values[name_for(signal, "COMPRESSION")],
        certificate=values[name_for(signal, "CERTIFICATE")],
        client_key=values[name_for(signal, "CLIENT_KEY")],
        client_certificate=values[name_for(signal, "CLIENT_CERTIFICATE")],
        insecure=endpoint.startswith("http://"),
        proxy=proxy_for(
            endpoint,
            values["http_proxy"] if endpoint.startswith("http://") else values["https_proxy"],
            values["no_proxy"],
        ),
    )


def _endpoint_and_protocol(values: Mapping[str, Any], signal: str) -> tuple[str | None, str]:
    endpoint = values[name_for(signal, "ENDPOINT")] or values[_PREFIX + "ENDPOINT"]
    protocol = values[name_for(signal, "PROTOCOL")]
    if protocol is None:
        port = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port if endpoint else None
        protocol = GRPC if port == 4317 else HTTP_PROTOBUF
    return endpoint, protocol
