"""The spool held against a list, whatever is done to it in whatever order."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_ebpf.export.otlp import encode_batch, encode_scope
from otel_ebpf.export.spool import Kept, Spool
from tests.unit.export.collectors import span_names
from tests.unit.export.sending import RESOURCE, encoded

LIMIT_BYTES = 64 * 1024
SCOPE = encode_scope("1")


class SpoolModel(RuleBasedStateMachine):
    """`batches` are the names of the spans of each row, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="otel-ebpf-test-")
        self.batches: list[list[str]] = []
        self.in_hand: Kept | None = None
        self.put = self.done = self.lost_before = 0
        self.open()

    def open(self) -> None:
        self.number = 0
        self.spool = Spool(Path(self.folder.name), LIMIT_BYTES, print)
        self.spool.open()

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()

    @rule(count=st.integers(1, 4), length=st.sampled_from([1, 3000, 9000]))
    def add(self, count: int, length: int) -> None:
        names = [f"{self.put + index}".ljust(length, "x") for index in range(count)]
        self.number += 1
        self.put += count
        self.spool.add(self.number, encode_batch([(RESOURCE, [encoded(name) for name in names])], SCOPE), count)
        self.batches.append(names)
        self.drop_what_the_limit_did()

    def drop_what_the_limit_did(self) -> None:
        """The oldest, but for the one in hand."""
        lost = sum(map(len, self.batches)) - self.spool.spans
        while lost > 0:
            lost -= len(self.batches.pop(0 if self.in_hand is None else 1))
        assert 0 == lost, "whole batches"

    @rule()
    def take(self) -> None:
        kept = self.spool.oldest()
        assert (kept is None) == (not self.batches)
        self.in_hand = kept
        if kept is not None:
            assert self.batches[0] == span_names(ExportTraceServiceRequest.FromString(kept.request))

    @rule(part=st.floats(0, 1))
    def settle(self, part: float) -> None:
        if self.in_hand is None:
            return
        unsent = round(part * self.in_hand.span_count)
        self.spool.settle(self.in_hand, unsent)
        self.done += self.in_hand.span_count - unsent
        oldest = self.batches.pop(0)
        if unsent:
            self.batches.insert(0, oldest[-unsent:])
        self.in_hand = None

    @rule()
    def end_and_begin_again(self) -> None:
        self.lost_before += self.spool.dropped
        self.spool.close()
        self.in_hand = None
        self.open()
        assert self.spool.inherited == sum(map(len, self.batches))

    @invariant()
    def nothing_is_lost_without_a_count(self) -> None:
        assert self.put == self.spool.spans + self.done + self.spool.dropped + self.lost_before
        assert self.spool.spans == sum(map(len, self.batches))
        assert self.spool.size_bytes <= LIMIT_BYTES or len(self.batches) <= 2, "one in hand, one that is new"


SpoolModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSpoolModel = SpoolModel.TestCase
