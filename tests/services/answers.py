"""Reads from a request's target what to answer: the servers' side of plan.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    status: int = 200
    size: int = 0
    framing: str = "length"  # or chunked
    delay_ms: int = 0

    @property
    def has_body(self) -> bool:
        return self.status not in (204, 304)

    @property
    def is_chunked(self) -> bool:
        return self.framing == "chunked" and self.has_body

    def pieces(self) -> list[bytes]:
        """More than one when chunked, so that the response leaves in several writes."""
        if not self.has_body or self.size == 0:
            return []
        if not self.is_chunked:
            return [b"x" * self.size]
        length = max(1, self.size // 4)
        return [b"x" * min(length, self.size - at) for at in range(0, self.size, length)]


def answer_for(path: str) -> Answer:
    """/ID/key/value/key/value"""
    words = path.partition("?")[0].strip("/").split("/")[1:]
    said = dict(zip(words[::2], words[1::2], strict=False))
    return Answer(
        status=int(said.get("status", 200)),
        size=int(said.get("size", 0)),
        framing=said.get("framing", "length"),
        delay_ms=int(said.get("delay", 0)),
    )
