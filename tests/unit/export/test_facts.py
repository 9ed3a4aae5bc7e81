"""What a recording says of the agent that made it."""

import json
from dataclasses import replace

import pytest

from otel_ebpf.export.facts import Facts, decode_facts
from otel_ebpf.records.decode import DecodeError
from otel_ebpf.telemetry.headers import HeaderRules
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.routes import RouteRules
from otel_ebpf.telemetry.sampling import SamplerRules

FACTS = Facts(
    seed=b"\x00\xff" * 16,
    version="1.2",
    host=HostFacts(name="web1", id="0" * 32, arch="amd64", os_type="linux"),
    value_length_limit=12,
    count_limit=128,
    known_methods=("GET", "PURGE"),
    routes=RouteRules((("shop", "/cart/{cart}"),), "unset"),
    sampler=SamplerRules("otel_ebpf_outcome", 0.1, 0.02),
    more_secret_keys=("customer",),
    headers=HeaderRules(("accept",), ("content-type", "server"), ("x-*",)),
)


def test_what_is_written_is_read_again() -> None:
    assert FACTS == decode_facts(FACTS.encode())


def test_a_recording_from_before_a_setting_has_its_default() -> None:
    without = json.loads(FACTS.encode())
    del without["sampler"], without["headers"], without["more_secret_keys"]

    expected = replace(FACTS, sampler=SamplerRules(), headers=HeaderRules(), more_secret_keys=())
    assert expected == decode_facts(json.dumps(without).encode())


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "jaeger_remote"},
        {"name": 7},
        {"name": "traceidratio", "rate": "0.1"},
        {"rate": 2},
        {"other": 1},
        {"name": "otel_ebpf_outcome", "slowest": 2},
        [],
        1,
    ],
)
def test_what_is_no_sampler_is_no_recording(sampler: object) -> None:
    changed = json.loads(FACTS.encode()) | {"sampler": sampler}

    with pytest.raises(DecodeError, match="START"):
        decode_facts(json.dumps(changed).encode())


@pytest.mark.parametrize("headers", [{"request": 7}, {"other": []}, {"request": ["\ud800"]}, [], 1])
def test_what_names_no_headers_is_no_recording(headers: object) -> None:
    changed = json.loads(FACTS.encode()) | {"headers": headers}

    with pytest.raises(DecodeError, match="START"):
        decode_facts(json.dumps(changed).encode())
