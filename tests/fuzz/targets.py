"""What is fuzzed, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import (
    answers,
    attributes,
    decode,
    elf,
    frames,
    headers,
    hostile,
    http1,
    masking,
    recording,
    routes,
    segments,
    status,
    text,
    trace_context,
)

SEEDS = Path(__file__).parent / "seeds"


class Target(NamedTuple):
    fuzz: Callable[[bytes], None]
    max_bytes: int


TARGETS = {
    "decode": Target(decode.fuzz, 1024),
    "elf": Target(elf.fuzz, 128),
    "frames": Target(frames.fuzz, 2048),
    "recording": Target(recording.fuzz, 16_384),
    "http1": Target(http1.fuzz, 2048),
    "segments": Target(segments.fuzz, 1024),
    "hostile": Target(hostile.fuzz, 1024),
    "masking": Target(masking.fuzz, 512),
    "trace_context": Target(trace_context.fuzz, 600),
    "attributes": Target(attributes.fuzz, 1024),
    "headers": Target(headers.fuzz, 1024),
    "routes": Target(routes.fuzz, 1024),
    "text": Target(text.fuzz, 400),
    "answers": Target(answers.fuzz, 1024),
    "status": Target(status.fuzz, 4096),
}
