"""Makes the captures anew, through the real programs: `python -m tests.captures.make [NAME ...]`, as root.

In:   the cases
Out:  NAME.recording, and NAME.json with what it must replay to; nothing is written when the live result differs
Owns: nothing

To be run when the structs of bpf/records.h change: a recording holds them as they are.
"""

import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from otel_ebpf import __version__
from otel_ebpf.exchanges.exchange import Exchange, Role
from otel_ebpf.export.facts import Facts
from otel_ebpf.export.inputs import LiveInputs, RecordingInputs
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.probe.loader import load
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import Part, SocketBackend, programs_of
from otel_ebpf.probe.socket_hooks import choose_hooks
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.records.recording import EntryKind, RecordingWriter
from otel_ebpf.telemetry.resource import HostFacts
from tests.captures.cases import CASES, Case
from tests.captures.replaying import SeenExchanges, facts_of
from tests.kernel.wire import RING_PAGES, Watched, Wire

FOLDER = Path(__file__).parent
MAX_BYTES = 200_000
SECONDS = 3.0
PASS_SECONDS = 0.02  # as the exporter looks at a busy ring
FACTS = Facts(
    seed=bytes(range(32)),
    version=__version__,
    host=HostFacts("captured", "0" * 32, "amd64", "linux"),
    value_length_limit=None,
    count_limit=128,
    known_methods=("GET", "HEAD", "POST", "PUT"),
)


def identity() -> ServiceIdentity:
    """The wire's two ends are in this process."""
    return ServiceIdentity(os.getpid(), 1, b"wire", b"/usr/bin/wire", (b"wire",), {}, b"/", "", (), "root")


def capture(case: Case, watched: Watched, folder: Path) -> tuple[bytes, list[Exchange]]:
    """The recording, and what the pipeline made of the same while it was made."""
    file = io.BytesIO()
    writer = RecordingWriter(file)
    writer.write(EntryKind.START, FACTS.encode())
    inputs = RecordingInputs(
        LiveInputs(watched.ring, watched.progress), watched.progress, writer, None, lambda line: sys.exit(line)
    )
    seen = SeenExchanges()
    pipeline = Pipeline(inputs, FACTS.services(), FACTS.builder(), FACTS.sample(), seen, None)
    pipeline.take_frame(identity())
    wire = case.wire()
    passing = PassingWire(wire, pipeline)
    case.act(passing)  # type: ignore[arg-type]  # has what a Wire has
    wanted = len(case.server) + len(case.client)
    deadline = time.monotonic() + (SECONDS if wanted else 0.3)
    while time.monotonic() < deadline and (len(seen.exchanges) < wanted or not wanted):
        pipeline.tick(pipeline.produced)
        time.sleep(PASS_SECONDS)
    if not case.is_left_open:
        wire.close()
    pipeline.tick(pipeline.produced)
    pipeline.finish()
    wire.close()
    return file.getvalue(), seen.exchanges


class PassingWire:
    """A Wire; after each of its moves the pipeline makes a pass, so that a capture has them between pieces too."""

    def __init__(self, wire: Wire, pipeline: Pipeline) -> None:
        self.__dict__.update(_wire=wire, _pipeline=pipeline)

    def __getattr__(self, name: str) -> object:
        self._pipeline.tick(self._pipeline.produced)
        return getattr(self._wire, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._wire, name, value)


def make(case: Case, watched: Watched, folder: Path) -> str:
    watched.fresh()
    recording, exchanges = capture(case, watched, folder)
    for role in (Role.SERVER, Role.CLIENT):
        found = [facts_of(exchange) for exchange in exchanges if exchange.role is role]
        wanted = [expected_facts(expected) for expected in case.expected(role)]
        if found != wanted:
            sys.exit(f"{case.name}, {role.name}: {found}, not {wanted}")
    if len(recording) > MAX_BYTES:
        sys.exit(f"{case.name}: {len(recording)} bytes, more than {MAX_BYTES}")
    (FOLDER / f"{case.name}.recording").write_bytes(recording)
    expected = {
        role.name.lower(): [expected_facts(expected) for expected in case.expected(role)]
        for role in (Role.SERVER, Role.CLIENT)
    }
    (FOLDER / f"{case.name}.json").write_text(json.dumps(expected, indent=1) + "\n")
    return f"{case.name}: {len(recording)} bytes, {len(exchanges)} exchanges"


def expected_facts(expected: tuple) -> dict[str, object]:
    method, target, status, request_body_bytes, response_body_bytes, outcome = expected
    return {
        "method": method.decode(),
        "target": target.decode(),
        "status": status,
        "request_body_bytes": request_body_bytes,
        "response_body_bytes": response_body_bytes,
        "outcome": outcome.value,
    }


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        flags: dict[str, int | str] = {"CPU_BITS": 4, "RING_PAGES": RING_PAGES, "MAX_CONNECTIONS": 512}
        hooks = choose_hooks(SocketBackend.TRACEPOINT.value)
        prepared = PreparedParts(hooks.backend, flags, cache_dir=Path(folder), parts=[Part.SOCKETS])
        with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
            watched = Watched(loaded, hooks)
            for case in CASES:
                if not names or case.name in names:
                    print(make(case, watched, Path(folder)))
            watched.close()


if __name__ == "__main__":
    main(sys.argv[1:])
