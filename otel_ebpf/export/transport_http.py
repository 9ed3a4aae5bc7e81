"""One OTLP/HTTP request at a time, through the official exporter, fed with encoded bytes.

In:   the bytes of an Export…ServiceRequest
Out:  Attempt
Owns: the connection to the collector

The official exporter gives headers, user agent and a second try on a stale connection. Its own retries are not used:
they hold the sender for seconds and lose the batch at the end. Certificates and modules are read here, at construction:
afterwards the process may have no right to read any file.
"""

import encodings.idna  # noqa: F401  # socket encodes host names with it, at the first look-up
import gzip
import socket
import threading
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
import urllib3.connection
import urllib3.exceptions
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
from opentelemetry.exporter.otlp.proto.http import Compression

from otel_ebpf.errors import AgentError
from otel_ebpf.export.attempts import Attempt, delivered, parse_retry_after, refused, too_large, try_again
from otel_ebpf.export.own_connections import Endpoint, OwnConnections, endpoints_of
from otel_ebpf.export.signals import TRACES_SIGNAL, Response, Signal
from otel_ebpf.export.trust import client_context
from otel_ebpf.otlp_settings import OtlpSettings

CONTENT_TOO_LARGE = 413  # RFC 9110 15.5.14
RETRYABLE = frozenset((429, 502, 503, 504))  # OTLP specification, "Retryable Response Codes"
ANSWER_LIMIT_BYTES = 64 * 1024
COMPRESSION_LEVEL = 1  # 86 bytes a span; level 9, the exporter's own, saves 10 more for three times the time


@dataclass(frozen=True, slots=True)
class HttpAnswer(BaseHTTPResult):
    """A whole answer, bounded."""

    answer_headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def headers(self) -> Mapping[str, str]:
        return self.answer_headers

    def content(self) -> bytes:
        return self.body


class CollectorConnection(BaseHTTPTransport):
    """The transport under the official exporter: keeps one connection, follows no redirect, tells its local ends."""

    def __init__(self, settings: OtlpSettings, own: OwnConnections) -> None:
        self._own = own
        self._open: list[socket.socket] = []
        self._is_aborted = False
        self._is_overdue = False
        transport = self

        class NotedHTTP(urllib3.connection.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                transport.note(self.sock)

        class NotedHTTPS(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                transport.note(self.sock)

        class HTTPPool(urllib3.HTTPConnectionPool):
            ConnectionCls = NotedHTTP

        class HTTPSPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = NotedHTTPS

        is_tls = settings.endpoint.startswith("https:")
        tls = {"ssl_context": client_context(settings)} if is_tls else {}
        self._pools = _pools(settings.proxy, num_pools=1, headers=None, maxsize=1, **tls)
        self._pools.pool_classes_by_scheme = {"http": HTTPPool, "https": HTTPSPool}

    def note(self, connected: socket.socket) -> None:
        self._open = [connected]
        self._own.note(endpoints_of(connected.getsockname()[:2]))

    def note_open(self) -> None:
        """The connection, if it is still there, may be used again at any moment."""
        for connected in self._open:
            try:
                self._own.note(endpoints_of(connected.getsockname()[:2]))
            except OSError:
                self._open = []

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        data: bytes | None = None,
    ) -> HttpAnswer:
        if self._is_aborted:
            return HttpAnswer(error=OSError("the agent ends"))
        self._is_overdue = False
        # urllib3's time-out is for each read: an answer that comes byte by byte would have no end.
        bound = threading.Timer(timeout or 0.0, self._give_up)
        bound.daemon = True
        bound.start()
        try:
            response = self._pools.request(
                method,
                url,
                headers=headers,
                body=data,
                timeout=urllib3.Timeout(total=timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            body = response.read(ANSWER_LIMIT_BYTES)
            if len(body) < ANSWER_LIMIT_BYTES:
                response.release_conn()
            else:
                response.close()
            if self._is_overdue:
                raise urllib3.exceptions.TimeoutError
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return HttpAnswer(error=urllib3.exceptions.TimeoutError() if self._is_overdue else error)
        finally:
            bound.cancel()
        return HttpAnswer(response.status, response.reason, answer_headers=response.headers, body=body)

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Whether the exporter shall try once more at once: the kept connection was closed by the collector."""
        return isinstance(exception, urllib3.exceptions.ProtocolError)

    def abort(self) -> None:
        """Ends a request in flight, from another thread, and all that would follow."""
        self._is_aborted = True
        self._hang_up()

    def _give_up(self) -> None:
        self._is_overdue = True
        self._hang_up()

    def _hang_up(self) -> None:
        for connected in self._open:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already, which is what we want

    def close(self) -> None:
        self._pools.clear()


def _pools(proxy: str | None, **options: Any) -> urllib3.PoolManager:
    """Straight to the collector, or through a proxy: https in a tunnel, http in the proxy's own form."""
    if proxy is None:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return urllib3.ProxyManager(plain, proxy_headers=urllib3.make_headers(proxy_basic_auth=credentials), **options)


class HttpTransport:
    """Sends batches of one signal as http/protobuf."""

    def __init__(self, settings: OtlpSettings, signal: Signal = TRACES_SIGNAL) -> None:
        self._signal = signal
        self._own = OwnConnections()
        self._connection = CollectorConnection(settings, self._own)
        self._is_compressed = settings.compression == "gzip"
        exporter = signal.exporter_class("http")(
            endpoint=settings.endpoint,
            headers={**basic_authorization(settings.endpoint), **dict(settings.headers)},
            timeout=settings.timeout_ms / 1000,
            compression=Compression.Gzip if self._is_compressed else Compression.NoCompression,
            _transport=self._connection,
        )
        submit = getattr(getattr(exporter, "_client", None), "_submit", None)
        if not callable(submit):
            raise AgentError(
                "the installed opentelemetry-exporter-otlp-proto-http cannot be fed with encoded bytes.",
                "Install the version that it asks for: pip install 'opentelemetry-exporter-otlp-proto-http~=1.45.0'.",
            )
        self._submit = submit

    def start(self) -> None:
        """Nothing: connections open with the first request."""

    def attempt(self, request: bytes, timeout_seconds: float) -> Attempt:
        """Sends one request and says what became of it."""
        body = gzip.compress(request, COMPRESSION_LEVEL, mtime=0) if self._is_compressed else request
        self._connection.note_open()
        answer = self._submit(body, timeout_seconds)
        if answer.status_code is None:
            return try_again(describe_error(answer.error))
        return judge_answer(
            self._signal.response, answer.status_code, answer.reason or "", answer.headers(), answer.content()
        )

    def own_endpoints(self) -> frozenset[Endpoint]:
        self._connection.note_open()
        return self._own.endpoints()

    def abort(self) -> None:
        self._connection.abort()

    def close(self) -> None:
        self._connection.close()


def basic_authorization(endpoint: str) -> dict[str, str]:
    """Credentials in a URL are sent as RFC 7617 says; urllib3 leaves them out."""
    parts = urlsplit(endpoint)
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"authorization": "Basic " + b64encode(credentials.encode("utf-8")).decode("ascii")}


def judge_answer(response: Response, status: int, reason: str, headers: Mapping[str, str], body: bytes) -> Attempt:
    """What an HTTP answer means for the batch."""
    if 200 <= status < 300:
        try:
            return delivered(response.FromString(body))
        except DecodeError:
            return delivered(response())  # taken, and answered in some other language
    if 300 <= status < 400:
        # Followed, a redirect would become a GET without the body. It may be a proxy's passing fault: not lost yet.
        return try_again(f"{status} redirect to {headers.get('location', 'nowhere')}, which is not followed")
    if status in RETRYABLE:
        return try_again(f"{status} {reason}", parse_retry_after(headers.get("retry-after"), time()))
    if status == CONTENT_TOO_LARGE:
        return too_large(f"{status} {reason}")
    return refused(f"{status} {reason}")


def describe_error(error: Exception | None) -> str:
    """The cause in a few words: urllib3 wraps errors two or three deep."""
    is_timeout = isinstance(error, urllib3.exceptions.TimeoutError)
    if is_timeout and not isinstance(error, urllib3.exceptions.NewConnectionError):  # which is one by inheritance
        return "no answer in time"
    deepest: BaseException | None = error
    while deepest is not None and (deepest.__cause__ or deepest.__context__) is not None:
        deepest = deepest.__cause__ or deepest.__context__
    if isinstance(deepest, OSError) and deepest.strerror:
        return deepest.strerror
    return str(deepest) or type(deepest).__name__
