"""One OTLP/gRPC call at a time, through the official exporter's channel, fed with encoded bytes.

In:   the bytes of an Export…ServiceRequest
Out:  Attempt
Owns: the channel to the collector

The official exporter makes the channel: address, credentials, compression, metadata. The call is made without its stub,
which would parse the bytes only to serialise them again, and repeat a failed call until the batch is lost. A channel
starts threads, so it is made in `start`, after rights were dropped; certificates are read at construction.
"""

import re

import grpc  # type: ignore[import-untyped]
import grpc._channel  # type: ignore[import-untyped]  # grpc imports it with the first channel: too late
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from otel_ebpf.errors import AgentError
from otel_ebpf.export.attempts import Attempt, delivered, refused, too_large, try_again
from otel_ebpf.export.own_connections import Endpoint, OwnConnections, SocketScan
from otel_ebpf.export.signals import TRACES_SIGNAL, Signal
from otel_ebpf.export.trust import read_pem, read_trusted
from otel_ebpf.otlp_settings import OtlpSettings

# OTLP specification, "OTLP/gRPC Response". RESOURCE_EXHAUSTED counts only with a RetryInfo.
RETRYABLE = frozenset(
    (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)
# How servers in Go, C++ and Python, and Java say that a message exceeds their limit: the code alone may mean a quota.
TOO_LARGE = re.compile("larger than max|exceeds maximum size", re.IGNORECASE)
# The sender has its own back-off; the channel's would add up to two minutes to it.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """Sends batches of one signal over gRPC."""

    def __init__(self, settings: OtlpSettings, signal: Signal = TRACES_SIGNAL) -> None:
        self._signal = signal
        self._exporter_class = signal.exporter_class("grpc")
        self._settings = settings
        self._own = OwnConnections()
        self._scan = SocketScan()
        self._credentials = None if settings.insecure else _credentials(settings)
        if not callable(getattr(self._exporter_class, "_initialize_channel_and_stub", None)):
            raise _wrong_version()

    def start(self) -> None:
        """Makes the channel, and with it gRPC's threads."""
        settings = self._settings
        is_gzip = settings.compression == "gzip"
        self._exporter = self._exporter_class(
            endpoint=settings.endpoint,
            insecure=settings.insecure,
            credentials=self._credentials,
            headers=settings.headers,
            timeout=settings.timeout_ms / 1000,
            compression=grpc.Compression.Gzip if is_gzip else grpc.Compression.NoCompression,
            channel_options=(*CHANNEL_OPTIONS, *_proxy_options(settings.proxy)),  # declared as one pair, read as many
        )
        channel = getattr(self._exporter, "_channel", None)
        self._metadata = getattr(self._exporter, "_headers", None)
        if channel is None or self._metadata is None:
            raise _wrong_version()
        self._export = channel.unary_unary(
            self._signal.grpc_method,
            request_serializer=None,
            response_deserializer=self._signal.response.FromString,
        )

    def attempt(self, request: bytes, timeout_seconds: float) -> Attempt:
        """Makes one call and says what became of it."""
        try:
            return delivered(self._export(request, timeout=timeout_seconds, metadata=self._metadata))
        except grpc.RpcError as error:
            return judge_error(error)
        except ValueError:  # how gRPC says that `abort` has closed the channel
            return try_again("the agent ends")

    def own_endpoints(self) -> frozenset[Endpoint]:
        self._own.note(self._scan.endpoints())
        return self._own.endpoints()

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "_exporter"):
            self._exporter.shutdown()


def judge_error(error: grpc.RpcError) -> Attempt:
    """What a failed call means for the batch."""
    code = error.code()
    retry_after = _retry_after(error)
    detail = f"{code.name} {error.details() or ''}"
    if code in RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None):
        return try_again(detail, retry_after)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE.search(detail):
        return too_large(detail)
    return refused(detail)


def _proxy_options(proxy: str | None) -> tuple[tuple[str, object], ...]:
    """gRPC would read the environment by rules of its own."""
    return (("grpc.enable_http_proxy", 0),) if proxy is None else (("grpc.http_proxy", proxy),)


def _retry_after(error: grpc.RpcError) -> float | None:
    """RetryInfo, within the standard status details or as metadata of its own."""
    try:
        for key, value in error.trailing_metadata() or ():
            if key == "google.rpc.retryinfo-bin":
                return _seconds(RetryInfo.FromString(value))
            if key == "grpc-status-details-bin":
                for detail in Status.FromString(value).details:
                    if detail.Is(RetryInfo.DESCRIPTOR):
                        return _seconds(RetryInfo.FromString(detail.value))
    except DecodeError:
        return None
    return None


def _seconds(info: RetryInfo) -> float:
    return max(0.0, float(info.retry_delay.seconds) + float(info.retry_delay.nanos) / 1e9)


def _credentials(settings: OtlpSettings) -> grpc.ChannelCredentials:
    import grpc.experimental  # type: ignore[import-untyped]  # as with grpc._channel, for secure channels alone

    key = certificate = None
    if settings.client_key and settings.client_certificate:
        key = read_pem(settings.client_key, "OTEL_EXPORTER_OTLP_CLIENT_KEY")
        certificate = read_pem(settings.client_certificate, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")
    return grpc.ssl_channel_credentials(read_trusted(settings), key, certificate)


def _wrong_version() -> AgentError:
    return AgentError(
        "the installed opentelemetry-exporter-otlp-proto-grpc cannot be fed with encoded bytes.",
        "Install the version that otel-ebpf asks for: pip install 'opentelemetry-exporter-otlp-proto-grpc~=1.45.0'.",
    )
