"""What an exchange costs the exporter, from its records to encoded bytes, by what becomes of it.

In:   nothing: no kernel and no network
Out:  figures on standard output
Owns: the samples that it makes

A part of `make bench`; by itself `python -m tests.bench.sampling`.
"""

import time
from typing import Any

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Role
from otel_ebpf.export.facts import Facts
from otel_ebpf.export.pipeline import Pipeline
from otel_ebpf.records.decode import decode_record
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.records.layouts import RECORD
from otel_ebpf.telemetry.resource import HostFacts
from otel_ebpf.telemetry.sampling import OUTCOME, SamplerRules
from tests.bench.rounds import median
from tests.unit.exchanges.kernel_model import Connection
from tests.unit.export.test_accounts import Samples

EXCHANGES, PER_TICK, ROUNDS = 20_000, 500, 7
HEADERS = b"Host: shop.example:8080\r\nUser-Agent: curl/8.5\r\nAccept: */*\r\n"
SAMPLERS = (
    SamplerRules("always_on"),
    SamplerRules("traceidratio", 0.01),
    SamplerRules("always_off"),
    SamplerRules(OUTCOME, 0.01),
)


class Counted:
    def __init__(self) -> None:
        self.spans = 0

    def put(self, resource: bytes, spans: list[bytes]) -> None:
        self.spans += len(spans)


def samples() -> list[bytes]:
    """Two records an exchange, each exchange on a connection of its own."""
    made: list[bytes] = []
    for number in range(EXCHANGES):
        connection = Connection(Role.SERVER)
        connection.request(b"GET /items/%d/reviews?page=2 HTTP/1.1\r\n%b\r\n" % (number % 1000, HEADERS))
        connection.response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        for record in connection.records:
            *fields, payload = record._replace(connection=number, service_pid=7)
            made.append(RECORD.pack(*fields) + payload)
    return made


def cpu_us(rules: SamplerRules, made: list[bytes]) -> tuple[float, int]:
    """For one exchange; how many spans there were of all."""
    facts = Facts(
        bytes(32), "bench", HostFacts("bench", "0" * 32, "amd64", "linux"), None, 128, ("GET",), sampler=rules
    )
    inputs: Any = Samples()
    sink = Counted()
    services, builder, outcomes = facts.services(), facts.builder(), facts.outcomes()
    pipeline = Pipeline(inputs, services, builder, facts.sample(), None, sink, outcomes=outcomes)
    pipeline.take_frame(ServiceIdentity(7, 1, b"shop", b"/shop", (b"shop",), {}, b"/", "", (8080,), "root"))
    began_ns = time.process_time_ns()
    for first in range(0, len(made), 2 * PER_TICK):
        inputs.waiting = made[first : first + 2 * PER_TICK]
        pipeline.tick(0)
    return (time.process_time_ns() - began_ns) / 1000 / EXCHANGES, sink.spans


def assembling_us(made: list[bytes]) -> float:
    """What all of them have in common: records to exchanges."""
    assembler = Assembler()
    began_ns = time.process_time_ns()
    for first in range(0, len(made), 2 * PER_TICK):
        records = [decode_record(sample, 0, len(sample)) for sample in made[first : first + 2 * PER_TICK]]
        assembler.feed_all(records)
    return (time.process_time_ns() - began_ns) / 1000 / EXCHANGES


def report() -> None:
    made = samples()
    found = [(assembling_us(made), [cpu_us(rules, made) for rules in SAMPLERS]) for _ in range(ROUNDS)]
    before = median([row[0] for row in found])
    print(f"\nSampling: CPU of an exchange, {EXCHANGES} of them, median of {ROUNDS} interleaved rounds")
    print(f"  records to exchanges {before:6.2f} µs; then, to encoded bytes or to none:")
    for number, rules in enumerate(SAMPLERS):
        name = rules.name if rules.rate is None else f"{rules.name} {rules.rate}"
        used = median([row[1][number][0] for row in found])
        print(f"  {name:22} {used - before:6.2f} µs, {found[0][1][number][1]} spans")


if __name__ == "__main__":
    report()
