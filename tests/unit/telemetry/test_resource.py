"""Who sent these spans."""

import uuid

import pytest

from otel_ebpf.telemetry.resource import parse_resource_attributes, resource_attributes
from tests.unit.telemetry.examples import HOST, identity


def test_resource_holds_what_is_known_of_process_and_host():
    """The resource conventions of service, process, host, os and telemetry."""
    found = resource_attributes(identity(), HOST, "0.1.0")

    assert {
        "service.name": "pay",
        "process.pid": 4321,
        "process.executable.name": "python3.11",
        "process.executable.path": "/usr/bin/python3.11",
        "process.owner": "www-data",
        "process.runtime.name": "cpython",
        "host.name": "web1",
        "host.id": "0123456789abcdef",
        "host.arch": "amd64",
        "os.type": "linux",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
        "telemetry.distro.name": "otel-ebpf",
        "telemetry.distro.version": "0.1.0",
    } == {key: value for key, value in found.items() if key not in ("service.instance.id", "telemetry.sdk.version")}


def test_command_line_never_becomes_an_attribute():
    """Passwords stand in command lines."""
    assert "hunter2" not in str(resource_attributes(identity(), HOST, "1"))


def test_unknown_facts_are_absent():
    nothing = identity(executable=b"", command=b"", argv=(), owner="")

    found = resource_attributes(nothing, HOST, "1")

    assert "unknown_service" == found["service.name"]
    assert {"process.executable.name", "process.executable.path", "process.owner", "container.id"}.isdisjoint(found)


def test_bare_interpreter_is_an_unknown_service():
    """Specification of service.name: `unknown_service:` and the executable."""
    found = resource_attributes(identity(argv=(b"python3",)), HOST, "1")

    assert "unknown_service:python3.11" == found["service.name"]


def test_own_name_of_the_target_goes_first():
    """OTEL_SERVICE_NAME wins over service.name in OTEL_RESOURCE_ATTRIBUTES."""
    environ = {
        "OTEL_SERVICE_NAME": b"checkout",
        "OTEL_RESOURCE_ATTRIBUTES": b"service.name=other,service.namespace=shop,host.name=mine",
    }

    found = resource_attributes(identity(environ=environ), HOST, "1")

    assert ("checkout", "shop", "mine") == (found["service.name"], found["service.namespace"], found["host.name"])


def test_attributes_alone_may_name_the_service():
    found = resource_attributes(identity(environ={"OTEL_RESOURCE_ATTRIBUTES": b"service.name=other"}), HOST, "1")

    assert "other" == found["service.name"]


def test_target_cannot_pose_as_another_producer():
    environ = {"OTEL_RESOURCE_ATTRIBUTES": b"telemetry.distro.name=x,telemetry.sdk.language=go"}

    found = resource_attributes(identity(environ=environ), HOST, "1")

    assert ("otel-ebpf", "python") == (found["telemetry.distro.name"], found["telemetry.sdk.language"])


def test_instance_id_is_one_life_of_one_process():
    """A UUID that is the same for the same process and no other: the pid alone comes back."""
    first, again = (resource_attributes(identity(), HOST, "1")["service.instance.id"] for _ in range(2))
    later = resource_attributes(identity(start_ticks=778), HOST, "1")["service.instance.id"]
    given = resource_attributes(identity(environ={"OTEL_RESOURCE_ATTRIBUTES": b"service.instance.id=i-1"}), HOST, "1")[
        "service.instance.id"
    ]

    assert first == again != later
    assert 5 == uuid.UUID(str(first)).version
    assert "i-1" == given


def test_container_and_node_are_recognised():
    found = resource_attributes(identity(container_id="c" * 64, executable=b"/usr/bin/node"), HOST, "1")

    assert ("c" * 64, "nodejs") == (found["container.id"], found["process.runtime.name"])


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        (b"", {}),
        (b"a=1,b=2", {"a": "1", "b": "2"}),
        (b" a = 1 ,b=", {"a": "1", "b": ""}),
        (b"a=x%2Cy%3Dz,caf%C3%A9=1", {"a": "x,y=z", "café": "1"}),
        (b"a=1,", {"a": "1"}),
        (b"a=b=c", {"a": "b=c"}),
        (b"a=1,nonsense", {}),
        (b"a=1,=2", {}),
        (b"a=1,b=%zz", {}),
        (b"a=1,b=%ff", {}),
        (b"a=1,b=\xff", {}),
    ],
)
def test_resource_attributes_are_percent_decoded_or_discarded_whole(raw: bytes, parsed: dict[str, str]):
    """Resource SDK specification: in case of any error the entire value should be discarded."""
    assert parsed == parse_resource_attributes(raw)


def test_bytes_that_are_not_utf8_do_not_spoil_the_resource():
    found = resource_attributes(identity(executable=b"/srv/\xff\xfe", argv=(b"\xff",)), HOST, "1")

    assert "\ufffd\ufffd" == found["service.name"]
