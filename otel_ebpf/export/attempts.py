"""What one try to send a batch came to, in words that both transports share.

In:   answers of a collector
Out:  Attempt
Owns: nothing
"""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

DETAIL_LIMIT_CHARACTERS = 200


class Result(Enum):
    DELIVERED = "delivered"
    TRY_AGAIN = "try again"  # the batch goes back to the queue
    REFUSED = "refused"  # the specification forbids to send it again
    TOO_LARGE = "too large"  # refused as it is; the same spans may be taken in smaller requests


class Attempt(NamedTuple):
    """The collector's answer to one batch; `detail` is printable and holds no secret."""

    result: Result
    detail: str = ""
    rejected: int = 0  # spans or data points of a batch that was delivered
    retry_after_seconds: float | None = None


def try_again(detail: object, retry_after_seconds: float | None = None) -> Attempt:
    return Attempt(Result.TRY_AGAIN, printable_detail(detail), retry_after_seconds=retry_after_seconds)


def refused(detail: object) -> Attempt:
    return Attempt(Result.REFUSED, printable_detail(detail))


def too_large(detail: object) -> Attempt:
    return Attempt(Result.TOO_LARGE, printable_detail(detail))


def delivered(response: ExportTraceServiceResponse | ExportMetricsServiceResponse) -> Attempt:
    """A batch that was taken, but for what partial_success says."""
    partial = response.partial_success
    if isinstance(response, ExportTraceServiceResponse):
        rejected = response.partial_success.rejected_spans
    else:
        rejected = response.partial_success.rejected_data_points
    return Attempt(Result.DELIVERED, printable_detail(partial.error_message), max(0, rejected))


def printable_detail(detail: object) -> str:
    """The collector is another program: its words may hold escape sequences, and have no end."""
    words = str(detail)[:DETAIL_LIMIT_CHARACTERS]
    return "".join(char if char.isprintable() else " " for char in words).strip()


def parse_retry_after(value: str | None, unix_now_seconds: float) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or an HTTP date (RFC 9110 10.2.3)."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - unix_now_seconds)
    except (TypeError, ValueError, OverflowError):
        return None


Report = Callable[[str], None]
