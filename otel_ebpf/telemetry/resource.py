"""The Resource of a watched service: who sent these spans.

In:   ServiceIdentity (raw facts of the process), HostFacts, the agent's version
Out:  resource attributes by the semantic conventions
Owns: nothing

What the target says of itself (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES in its environment) goes before what was
found out. Command-line arguments never become attributes: they hold passwords often enough; at most one word of them
becomes the service's name (service_name.py).

`telemetry.sdk.*` describes what made the telemetry, not what was watched (semantic conventions, telemetry.sdk: "the
language of the telemetry SDK"): that is this agent on the OpenTelemetry Python packages, so it says `python` for a Go
service too. The service's own language is `process.runtime.name`, where it shows.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes
from uuid import UUID, uuid5

from opentelemetry.sdk.version import __version__ as sdk_version

from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.telemetry.service_name import Command, base_name, interpreter_kind, name_service

AttributeValue = str | int
DISTRO_NAME = "otel-ebpf"
VALUE_LIMIT_BYTES = 4096

# Given by the conventions of service.instance.id, so that all producers make the same UUID from the same name.
INSTANCE_ID_NAMESPACE = UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")

# By the interpreter that runs; a Go or C program does not show in its name.
RUNTIMES = {
    "python": "cpython",
    "pypy": "pypy",
    "node": "nodejs",
    "nodejs": "nodejs",
    "deno": "deno",
    "bun": "bun",
    "ruby": "ruby",
    "php": "php",
    "perl": "perl",
    "dotnet": "dotnet",
}
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host that the agent runs on; "" is not known."""

    name: str
    id: str  # /etc/machine-id
    arch: str  # as host.arch has it: amd64, arm64
    os_type: str


def resource_attributes(identity: ServiceIdentity, host: HostFacts, distro_version: str) -> dict[str, AttributeValue]:
    """All resource attributes of one service; what is not known is absent."""
    given = parse_resource_attributes(identity.environ.get("OTEL_RESOURCE_ATTRIBUTES", b""))
    service_name = text(identity.environ.get("OTEL_SERVICE_NAME", b"")).strip()
    if service_name:
        given["service.name"] = service_name
    derived: dict[str, AttributeValue] = {
        "service.name": given.get("service.name") or service_name_of(identity),
        "service.instance.id": instance_id(identity, host),
        "process.pid": identity.pid,
        "process.executable.name": executable_name(identity),
        "process.executable.path": text(identity.executable).removesuffix(" (deleted)"),
        "process.owner": identity.owner,
        "process.runtime.name": RUNTIMES.get(interpreter_kind(executable_name(identity)) or "", ""),
        "host.name": host.name,
        "host.id": host.id,
        "host.arch": host.arch,
        "os.type": host.os_type,
        "container.id": identity.container_id,
    }
    known = {key: value for key, value in derived.items() if value != ""}
    producer: dict[str, AttributeValue] = {
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": sdk_version,
        "telemetry.distro.name": DISTRO_NAME,
        "telemetry.distro.version": distro_version,
    }
    return known | {key: value for key, value in given.items() if value} | producer


def service_name_of(identity: ServiceIdentity) -> str:
    """A name from what runs; the specification's `unknown_service:` form when that says nothing."""
    found = name_service(
        Command(
            executable=text(identity.executable),
            argv=[text(word) for word in identity.argv],
            working_directory=text(identity.working_directory),
            comm=text(identity.command),
        )
    )
    return found or f"unknown_service:{executable_name(identity)}".removesuffix(":")


def executable_name(identity: ServiceIdentity) -> str:
    """The file's name, else what the kernel calls the process."""
    return base_name(text(identity.executable)) or text(identity.command)


def instance_id(identity: ServiceIdentity, host: HostFacts) -> str:
    """One UUID for one life of one process: a pid comes back, a pid with its start time does not."""
    return str(uuid5(INSTANCE_ID_NAMESPACE, f"{host.id or host.name}/{identity.pid}/{identity.start_ticks}"))


def parse_resource_attributes(raw: bytes) -> dict[str, str]:
    """OTEL_RESOURCE_ATTRIBUTES: `key=value,key=value`, percent-encoded.

    The specification: on any error the whole value is discarded, not only the pair that is wrong.
    """
    found: dict[str, str] = {}
    for pair in raw.split(b","):
        if not pair.strip():
            continue
        key, equals, value = pair.partition(b"=")
        decoded = percent_decoded(key), percent_decoded(value)
        if not equals or not decoded[0] or decoded[1] is None:
            return {}
        found[decoded[0]] = decoded[1]
    return found


def percent_decoded(raw: bytes) -> str | None:
    """The text, or None if it is not percent-encoded UTF-8."""
    stripped = raw.strip()
    if _BAD_PERCENT.search(stripped):
        return None
    try:
        return unquote_to_bytes(stripped).decode("utf-8")[:VALUE_LIMIT_BYTES]
    except UnicodeDecodeError:
        return None


def text(raw: bytes) -> str:
    """Bytes of the kernel as text that OTLP accepts."""
    return raw[:VALUE_LIMIT_BYTES].decode("utf-8", "replace")
