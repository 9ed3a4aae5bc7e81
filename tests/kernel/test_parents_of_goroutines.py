"""What a Go service sends is caused by the request whose goroutine sends it, or by none that anybody knows."""

import io
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_ebpf.probe.elf_image import UnreadableTlsError
from otel_ebpf.probe.go_program import inspect
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.records.kinds import LinkEvidence
from tests.kernel.goroutines import GoroutinesWatched
from tests.kernel.parents import Parent, calls_of, may_err, parents_seen
from tests.kernel.probed import FORMS
from tests.services.calling import SERVICES, CallingService
from tests.services.calling_go import (
    GO_BY_CONTEXT,
    GO_BY_GOROUTINES,
    GO_BY_ITSELF,
    GO_SWAP,
    GO_UNKNOWN,
    go_calling_service,
    kinds_named,
)
from tools.go_build import PLAIN, Kind, build

pytestmark = [pytest.mark.kernel, pytest.mark.compiles]

REQUESTS = int(os.environ.get("OTEL_EBPF_TEST_REQUESTS", "20"))  # of each kind
AT_ONCE, BATCH = 40, 5  # of each kind, between two looks at the ring
LONGEST_UNKNOWN_S = 150.0  # a doubt of a function lasts 60
TOOLCHAINS = kinds_named(os.environ.get("OTEL_EBPF_TEST_GO", ""))  # these as well
OLDEST_PIE = Kind(toolchain="go1.21.13", is_pie=True)
KINDS = [
    pytest.param(PLAIN, False, id="newest"),
    pytest.param(OLDEST_PIE, True, id="go1.21-pie-tls"),
    *(
        pytest.param(kind, speaks_tls, id=f"{kind.toolchain}-{kind.is_pie}-{speaks_tls}")
        for kind in TOOLCHAINS
        for speaks_tls in (False, True)
    ),
]


@pytest.fixture(scope="module")
def goroutines(prepared: PreparedParts, hooks: SocketHooks) -> Iterator[GoroutinesWatched]:
    watched = GoroutinesWatched(prepared, hooks, FORMS[0])
    watched.unwatch(os.getpid())
    yield watched
    watched.close()


def evidence_of(path: str) -> LinkEvidence:
    return LinkEvidence.REQUEST_CONTEXT if path.split("/")[2] in GO_BY_CONTEXT else LinkEvidence.GOROUTINE


def know_goroutines(watched: GoroutinesWatched, service: CallingService) -> None:
    """Asks until calls by goroutines of each kind are told whose they are."""
    deadline, number = time.monotonic() + LONGEST_UNKNOWN_S, 0
    unknown = {*GO_BY_GOROUTINES} & {*service.kinds}
    while unknown and time.monotonic() < deadline:
        caused = service.ask(f"warm{number}-", 10, AT_ONCE, tuple(unknown))
        found = calls_of(watched, caused)
        unknown = {path.split("/")[2] for path, parent in found.items() if not parent}
        number += 1
    assert set() == unknown


@pytest.mark.parametrize(("kind", "speaks_tls"), KINDS)
def test_every_call_belongs_to_the_request_of_its_goroutine_or_to_none(
    goroutines: GoroutinesWatched, kind: Kind, speaks_tls: bool, tmp_path: Path, stack: ExitStack
) -> None:
    """40 at once, with pauses of random lengths, on connections that stay open; and calls that nobody caused. Collecting
    all the time, so that stacks move. What pools do is never told to be of the request that has started them."""
    service = stack.enter_context(go_calling_service(tmp_path / "service", kind, speaks_tls=speaks_tls, GOGC="5"))
    goroutines.fresh()
    goroutines.follow(service.process.pid)
    know_goroutines(goroutines, service)

    caused: dict[str, str] = {}
    for number in range(0, REQUESTS, BATCH):
        caused |= service.ask(f"hot{number}-", BATCH, AT_ONCE)
        found = calls_of(goroutines, caused)

    assert None is service.process.poll()
    unknown = {path: parent for path, parent in caused.items() if path.split("/")[2] in GO_UNKNOWN}
    certain = {path: Parent(parent, evidence_of(path)) for path, parent in caused.items() if path not in unknown}
    assert {*GO_BY_ITSELF, *GO_BY_GOROUTINES, *GO_BY_CONTEXT} & {*service.kinds} == {
        path.split("/")[2] for path in certain
    }
    assert {} == {path: (found.get(path), parent) for path, parent in certain.items() if found.get(path) != parent}
    doubtful = {path.split("/")[2] for path in may_err(goroutines.records) & certain.keys()}
    assert {*GO_BY_GOROUTINES} & {*service.kinds} == doubtful, (
        "what a goroutine has read itself is certain, and what has its context; what it starts may be a pool"
    )
    wrong = {
        path: found[path]
        for path, parent in unknown.items()
        if found[path] not in (None, Parent(parent, LinkEvidence.GOROUTINE))
    }
    assert {} == wrong
    every = parents_seen(goroutines, 1)
    assert {None} == {parent for path, parent in every.items() if path.startswith("/noise/")}


def test_what_is_true_of_requests_that_are_alone_is_not_believed_of_others(
    goroutines: GoroutinesWatched, tmp_path: Path, stack: ExitStack
) -> None:
    """What each request starts does its work, until two come at the same time: then it does the other one's."""
    service = stack.enter_context(go_calling_service(tmp_path / "service"))
    goroutines.fresh()
    goroutines.follow(service.process.pid)
    deadline, alone = time.monotonic() + LONGEST_UNKNOWN_S, dict[str, str]()
    seen: dict[str, Parent | None] = {}
    while not any(seen.get(path) for path in alone) and time.monotonic() < deadline:
        alone |= service.ask(f"alone{len(alone)}-", 1, 1, (GO_SWAP,))
        seen = parents_seen(goroutines, 1)
    believed = {path: parent for path in alone if (parent := seen.get(path))}
    assert {path: Parent(alone[path], LinkEvidence.GOROUTINE) for path in believed} == believed != {}

    together = service.ask("pair-", 2, 2, (GO_SWAP,))

    assert {None} == set(calls_of(goroutines, together).values())


@pytest.mark.parametrize("kind", [PLAIN, OLDEST_PIE], ids=["newest", "go1.21-pie"])
def test_a_program_whose_code_says_otherwise_than_the_table_is_not_followed(kind: Kind) -> None:
    """As a version with another layout would: where a goroutine's number is written is one word further in its code."""
    program = bytearray(build(SERVICES / "go_calling", kind).read_bytes())
    layout = inspect(io.BytesIO(program)).layout
    for offset in layout:
        wanted, changed = (word.to_bytes(4, "little") for word in (offset, offset + 8))
        other = program.replace(wanted, changed)

        with pytest.raises(UnreadableTlsError, match=r"(goroutines|requests) are not made as Go"):
            inspect(io.BytesIO(other))


def test_a_version_that_is_not_known_is_not_followed() -> None:
    program = build(SERVICES / "go_calling").read_bytes()
    said = re.search(rb"go1\.\d\d", program[program.index(b"\xff Go buildinf:") :])
    assert said is not None

    with pytest.raises(UnreadableTlsError, match=r"made by Go 1\.99; known are 1\.21 to 1\.27"):
        inspect(io.BytesIO(program.replace(said[0], b"go1.99")))
