"""The progress table is read while records still wait in the ring: what it says then must not be taken for a gap."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_ebpf.exchanges.assembler import Assembler
from otel_ebpf.exchanges.exchange import Exchange, Outcome
from otel_ebpf.records.kinds import EndReason
from otel_ebpf.records.progress import Progress
from tests.unit.exchanges.kernel_model import Connection
from tests.unit.exchanges.test_assembler import CHUNKED_HEAD, GET, OK, exchanges_on_the_wire, pieces
from tests.unit.exchanges.test_masking import SECRET, Redacted

LOOKS_EVERY_NS = 2_000_000_000  # each one is at every open run


@dataclass
class Kernel:
    """What happened, call by call: how many records there were then, and what the table said."""

    connection: Connection = field(default_factory=Connection)
    moments: list[tuple[int, Progress | None]] = field(default_factory=list)

    def call(self, *, request: bytes = b"", response: bytes = b"", end: EndReason = EndReason.NONE) -> "Kernel":
        if request:
            self.connection.request(request)
        if response:
            self.connection.response(response)
        if end:
            self.connection.end(end)
        self.moments.append((len(self.connection.records), self.connection.progress(7, 0)))
        return self

    def read_with_the_table_ahead(self, lead: int, assembler: Assembler | None = None) -> list[Exchange]:
        """An assembler that looks at the table `lead` moments after it has read the ring.

        By its next look it has read what the table told of: the kernel sends its records first.
        """
        assembler, done, read = assembler or Assembler(), [], 0
        last = len(self.moments) - 1
        for moment in range(0, last + 3 * max(1, lead), max(1, lead)):
            records, _ = self.moments[min(moment, last)]
            for record in self.connection.records[read:records]:
                done += assembler.feed(record)
            read = records
            _, table = self.moments[min(moment + lead, last)]
            done += assembler.watch(lambda *_, table=table: table, (moment + 1) * LOOKS_EVERY_NS)
        return done


IN_PIECES = OK[:12], OK[12:30], OK[30:]
CASES = {
    "an answer": Kernel().call(request=GET).call(response=OK),
    "an answer and the close": Kernel().call(request=GET).call(response=OK).call(end=EndReason.CLOSED),
    "a request in pieces": Kernel().call(request=GET[:9]).call(request=GET[9:]).call(response=OK),
    "an answer in pieces": Kernel()
    .call(request=GET)
    .call(response=IN_PIECES[0])
    .call(response=IN_PIECES[1])
    .call(response=IN_PIECES[2]),
    "chunks": Kernel()
    .call(request=GET)
    .call(response=CHUNKED_HEAD + b"5\r\nhello\r\n")
    .call(response=b"0\r\n\r\n")
    .call(end=EndReason.CLOSED),
    "two answers": Kernel().call(request=GET + GET).call(response=OK).call(response=OK),
    "an interim answer": Kernel().call(request=GET).call(response=b"HTTP/1.1 100 Continue\r\n\r\n").call(response=OK),
}


@pytest.mark.parametrize("lead", [0, 1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_however_far_the_table_is_ahead_the_exchanges_are_whole(name: str, lead: int) -> None:
    done = CASES[name].read_with_the_table_ahead(lead)

    wanted = 2 if name == "two answers" else 1
    assert [(b"GET", 200, 5, Outcome.COMPLETE)] * wanted == [
        (exchange.method, exchange.status, exchange.response_body_bytes, exchange.outcome) for exchange in done
    ]


@pytest.mark.parametrize("lead", [0, 1, 2, 3])
def test_redaction_overwrites_a_body_that_the_table_told_of_first(lead: int) -> None:
    """Its pieces look like lines of a head, of which the names would stay."""
    lines = b"pass" + SECRET + b": 1\r\n"
    head = b"POST /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (3 * len(lines))
    kernel = Kernel().call(request=head + lines[:3]).call(request=lines[3:] + lines[:9])
    kernel.call(request=lines[9:] + lines).call(response=OK).call(end=EndReason.CLOSED)
    redacted = Redacted()

    assert kernel.read_with_the_table_ahead(lead) == kernel.read_with_the_table_ahead(lead, redacted)
    assert SECRET not in redacted.seen


def test_bytes_that_no_record_ever_tells_of_are_a_gap_one_look_later() -> None:
    """A head longer than what is captured: the table alone says that it goes on."""
    kernel = Kernel().call(request=GET).call(response=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000)
    kernel.call(response=b"\r\nContent-Length: 2\r\n\r\nok").call(end=EndReason.CLOSED)

    (exchange,) = kernel.read_with_the_table_ahead(0)

    assert (200, None) == (exchange.status, exchange.response_body_bytes)


@settings(max_examples=400)
@given(st.data(), st.integers(0, 12))
def test_no_exchange_is_another_one_because_the_table_was_ahead(data: st.DataObject, lead: int) -> None:
    kernel, sent = Kernel(), []
    for _ in range(data.draw(st.integers(1, 3))):
        request, response, expected = data.draw(exchanges_on_the_wire())
        sent.append(expected)
        for piece in pieces(data.draw, request):
            kernel.call(request=piece)
        for piece in pieces(data.draw, response):
            kernel.call(response=piece)
    kernel.call(end=EndReason.CLOSED)

    done = kernel.read_with_the_table_ahead(lead)

    assert sent == [(exchange.method, exchange.target, exchange.status) for exchange in done]
    assert all(exchange.outcome is Outcome.COMPLETE for exchange in done)
