"""What the probe tells the exporter besides the kernel's records: one JSON object a frame, one frame a packet.

In:   an object of one of the kinds in `Frame`; or the bytes of one packet
Out:  the bytes of one packet; or the same object
Owns: the bound of a frame, and what is cut to keep it

The channel is a SOCK_SEQPACKET socket pair, which keeps packets whole; so there is no length prefix. Bytes stand as
text, one character a byte (latin-1): anything a process calls itself can cross, and a frame can be read by eye.
"""

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.kinds import CounterReading, Hidden, LedgerReading, ServiceIdentity

MAX_FRAME_BYTES = 65_536
MAX_PORTS = 256
# Room for text of one identity, tried in turn until the frame fits; JSON makes up to six bytes of one.
_TEXT_BYTES = (8192, 2048, 512)
_MAX_INTEGER = 2**64 - 1
_MAX_ITEMS = 4096  # of any list or object in a frame


@dataclass(frozen=True, slots=True)
class ServiceGone:
    """No process of the service is left; records of it may still be on their way."""

    service_pid: int


@dataclass(frozen=True, slots=True)
class LedgerClosed:
    """Nothing more is counted for the service; its number may come back as another one's."""

    service_pid: int


@dataclass(frozen=True, slots=True)
class Hooks:
    """How the bytes of targets are seen now; empty while nothing is attached."""

    backend: str
    tls_form: str = ""  # of the probes on TLS, empty while there are none
    tls_files: int = 0  # that have some
    lookup_form: str = ""  # of those on C libraries
    lookup_files: int = 0

    @property
    def text(self) -> str:
        parts = (
            self.backend,
            _in_files(self.tls_form, self.tls_files, " for TLS"),
            _in_files(self.lookup_form, self.lookup_files),
        )
        return ", ".join(part for part in parts if part)


def _in_files(form: str, count: int, purpose: str = "") -> str:
    return f"{form} in {count} file{'' if count == 1 else 's'}{purpose}" if count else ""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The exporter sends what it has and ends, by the deadline at the latest."""

    reason: str
    deadline_ns: int  # CLOCK_MONOTONIC


Frame = ServiceIdentity | CounterReading | LedgerReading | LedgerClosed | ServiceGone | Hidden | Hooks | Shutdown
_KINDS: dict[str, type[Frame]] = {kind.__name__: kind for kind in typing.get_args(Frame)}
_HINTS = {name: typing.get_type_hints(kind) for name, kind in _KINDS.items()}


def cut_arguments(arguments: tuple[bytes, ...], limit_bytes: int) -> tuple[bytes, ...]:
    """The first arguments, with one byte each for what separates them; the last one may be cut."""
    kept = []
    for argument in arguments:
        if limit_bytes <= 0:
            break
        kept.append(argument[:limit_bytes])
        limit_bytes -= len(argument) + 1
    return tuple(kept)


def cut_environ(environ: Mapping[str, bytes], limit_bytes: int) -> dict[str, bytes]:
    """Values within the limit. Resource attributes end after a whole pair: half a value would be a wrong one."""
    cut = {}
    for name, value in environ.items():
        if len(value) > limit_bytes:
            value = value[: limit_bytes + 1]
            value = value[: max(value.rfind(b","), 0)] if name == "OTEL_RESOURCE_ATTRIBUTES" else value[:limit_bytes]
        if value:
            cut[name] = value
    return cut


def encode_frame(frame: Frame) -> bytes:
    """One packet of at most MAX_FRAME_BYTES; the texts of an identity are cut where they would not fit."""
    packet = _packet(frame)
    if len(packet) > MAX_FRAME_BYTES and isinstance(frame, ServiceIdentity):
        for limit_bytes in _TEXT_BYTES:
            packet = _packet(_cut_identity(frame, limit_bytes))
            if len(packet) <= MAX_FRAME_BYTES:
                break
    if len(packet) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(packet)} bytes: {type(frame).__name__} has no text that may be cut")
    return packet


def decode_frame(packet: bytes) -> Frame:
    """Raises DecodeError for anything that encode_frame would not write."""
    if len(packet) > MAX_FRAME_BYTES:
        raise DecodeError(f"a frame of {len(packet)} bytes: at most {MAX_FRAME_BYTES} are allowed")
    try:
        message = json.loads(packet.decode(), object_pairs_hook=_object, parse_constant=_refuse, parse_float=_refuse)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"a frame that is not JSON of this form: {error}") from None
    name = message.pop("kind", None) if isinstance(message, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise DecodeError("a frame of no known kind")
    hints = _HINTS[name]
    if message.keys() != hints.keys():
        raise DecodeError(f"a {name} with the fields {sorted(message)[:20]}")
    kind: Any = _KINDS[name]
    found: Frame = kind(**{field: _decoded(f"{name}.{field}", hints[field], message[field]) for field in hints})
    if isinstance(found, LedgerReading) and any(len(row) < 2 for row in found.rows):
        raise DecodeError("a LedgerReading whose rows name no service")
    return found


def _cut_identity(identity: ServiceIdentity, limit_bytes: int) -> ServiceIdentity:
    return replace(
        identity,
        command=identity.command[:64],
        executable=identity.executable[:limit_bytes],
        argv=cut_arguments(identity.argv, limit_bytes),
        environ=cut_environ(identity.environ, limit_bytes),
        working_directory=identity.working_directory[:limit_bytes],
        container_id=identity.container_id[:128],
        listening_ports=identity.listening_ports[:MAX_PORTS],
        owner=identity.owner[:256],
    )


def _packet(frame: Frame) -> bytes:
    message = {"kind": type(frame).__name__}
    message |= {field.name: _encoded(getattr(frame, field.name)) for field in fields(frame)}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, dict):
        return {name: _encoded(item) for name, item in value.items()}
    return value


def _decoded(where: str, hint: Any, value: Any) -> Any:
    """The value in the type that the dataclass declares."""
    # A bool is an int to Python, not here.
    if hint is int and type(value) is int and 0 <= value <= _MAX_INTEGER:
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint is bytes and isinstance(value, str):
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            raise DecodeError(f"{where} holds a character that is no byte") from None
    container, inner = typing.get_origin(hint), typing.get_args(hint)
    if container is tuple and isinstance(value, list) and len(value) <= _MAX_ITEMS:
        return tuple(_decoded(where, inner[0], item) for item in value)
    if container is dict and isinstance(value, dict) and len(value) <= _MAX_ITEMS:
        return {name: _decoded(where, inner[1], item) for name, item in value.items()}
    raise DecodeError(f"{where} is no {hint}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no whole number")
