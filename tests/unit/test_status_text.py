"""What `otel-ebpf status` prints."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.status_text import status_lines

NUMBERS = {"began": 1000, "spans": 989, "open": 1, "losses": {"lost, ring full": 10}, "captured": 989 / 999}
DOCUMENT: dict[str, Any] = {
    "version": "1.2.3",
    "hooks": "raw tracepoint sys_exit",
    "host": NUMBERS,
    "ring": {
        "size_bytes": 8 << 20,
        "used_bytes": 1 << 20,
        "records": 2999,
        "ends_that_did_not_fit": 0,
        "process_events_lost": 0,
    },
    "sampler": {"waiting": 3, "left_early": 2},
    "collector": {
        "endpoint": "http://c:4318/v1/traces",
        "state": "takes spans",
        "exported": 980,
        "rejected": 0,
        "dropped": 4,
        "failed": 0,
        "waiting": 5,
        "on_disk": 0,
        "found_on_disk": 0,
        "waiting_bytes": 2048,
    },
    "metrics": {"endpoint": "http://c:4318/v1/metrics", "state": "takes metrics", "exported": 70, "rejected": 2},
    "services": [
        {"name": "shop (pid 41)", "processes": 3, "not_visible": ["2 connections are encrypted"], **NUMBERS},
        {
            "name": "idle (pid 42)",
            "processes": 1,
            "not_visible": [],
            "began": 0,
            "spans": 0,
            "open": 0,
            "losses": {},
            "captured": None,
        },
    ],
    "services_left_out": 0,
}


def changed(**changes: Any) -> bytes:
    return json.dumps({**copy.deepcopy(DOCUMENT), **changes}).encode()


def test_every_number_is_shown_with_its_name() -> None:
    assert [
        "otel-ebpf 1.2.3, hooks: raw tracepoint sys_exit",
        "  all       1000 began, 989 spans, 1 open, 98.99 % captured",
        "  no span   10 lost, ring full",
        "  ring      12.5 % of 8192 KiB in use, 2999 records read",
        "  sampler   3 requests wait to hear of their traces, 2 could not: too many do",
        "  collector http://c:4318/v1/traces: takes spans",
        "            980 exported, 4 dropped, 5 waiting (2 KiB)",
        "  metrics   http://c:4318/v1/metrics: takes metrics",
        "            70 data points exported, 2 rejected",
        "",
        "shop (pid 41), 3 processes",
        "  requests  1000 began, 989 spans, 1 open, 98.99 % captured",
        "  no span   10 lost, ring full",
        "  not seen  2 connections are encrypted",
        "",
        "idle (pid 42), 1 process",
        "  requests  0 began, 0 spans",
    ] == status_lines(changed())


def test_spans_on_the_disk_are_shown_when_there_are_some() -> None:
    collector = {**DOCUMENT["collector"], "on_disk": 7}

    assert "            980 exported, 4 dropped, 5 waiting (2 KiB), 7 on disk" in status_lines(
        changed(collector=collector)
    )


def test_one_loss_in_a_million_is_not_rounded_to_all() -> None:
    lines = status_lines(changed(host={**NUMBERS, "captured": 999_999 / 1_000_000}))

    assert "99.99 % captured" in lines[1]


def test_an_agent_that_watches_nothing_says_so() -> None:
    lines = status_lines(
        changed(hooks="", sampler=None, collector=None, metrics=None, services=[], services_left_out=3)
    )

    assert "nothing is watched" in lines[0]
    assert "  collector none" in lines
    assert "and 3 services more" == lines[-1]


def test_nothing_that_a_process_calls_itself_reaches_the_terminal_as_a_command() -> None:
    services = [{**DOCUMENT["services"][0], "name": "\x1b[2Jevil\r\n"}]

    assert all(line.isprintable() for line in status_lines(changed(services=services)))


@pytest.mark.parametrize(
    "changes",
    [
        {"ring": {**DOCUMENT["ring"], "size_bytes": 0}},
        {"ring": {**DOCUMENT["ring"], "used_bytes": 10**400}},
        {"host": {**NUMBERS, "captured": float("-inf")}},
    ],
)
def test_numbers_that_cannot_be_are_a_value_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unreadable"):
        status_lines(changed(**changes))


@given(st.one_of(st.binary(max_size=50), st.sampled_from(sorted(DOCUMENT)).map(lambda key: changed(**{key: [1]}))))
def test_anything_else_is_a_value_error(document: bytes) -> None:
    """`version` and `hooks` are shown as they are."""
    try:
        lines = status_lines(document)
    except ValueError:
        return
    assert all(line.isprintable() for line in lines)
