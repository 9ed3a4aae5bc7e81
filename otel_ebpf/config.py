"""Every setting once: a table of environment names that drives parsing, `--help` and the table in README.md.

In:   an environment, as a mapping (nothing here reads os.environ)
Out:  frozen Settings and a list of warnings, or one SettingsError that names every bad value at once
Owns: the names, the defaults and what is allowed

Defaults stand in the notation of the environment and go through the same parser. An empty value counts as unset,
as the OpenTelemetry specification asks. A bad value ends the start: a setting that is silently replaced misleads.
`python -m otel_ebpf.config` writes the table into README.md.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from otel_ebpf import otlp_settings
from otel_ebpf.errors import SettingsError
from otel_ebpf.otlp_settings import GRPC, HTTP_PROTOBUF, METRICS, TRACES, OtlpSettings
from otel_ebpf.proxies import parse_no_proxy, parse_proxy
from otel_ebpf.setting_values import (
    Listen,
    PortRange,
    any_of,
    integer,
    one_of,
    parse_absolute,
    parse_boolean,
    parse_duration_ns,
    parse_endpoint,
    parse_exporters,
    parse_file,
    parse_globs,
    parse_header_globs,
    parse_header_names,
    parse_headers,
    parse_listen,
    parse_methods,
    parse_pids,
    parse_ports,
    parse_program,
    parse_query_keys,
    parse_ring_bytes,
    parse_routes,
    parse_sampler_argument,
    parse_socket_path,
    parse_timeout_ms,
    parse_user,
    size_bytes,
)

_ROOT_SAMPLERS = ("always_on", "always_off", "traceidratio")
_OUTCOME = "otel_ebpf_outcome"
SAMPLERS = (*_ROOT_SAMPLERS, *(f"parentbased_{name}" for name in _ROOT_SAMPLERS), _OUTCOME)
EXPLICIT_BUCKETS = "explicit_bucket_histogram"
DEFAULT_PROMETHEUS = Listen("localhost", 9464)  # the specification's, for OTEL_METRICS_EXPORTER=prometheus


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """What is measured, and where it goes."""

    otlp: OtlpSettings | None  # None: nothing is sent
    prometheus: Listen | None  # where it is scraped
    prometheus_path: str
    http: tuple[str, ...]  # of `duration`, `body_size`, `active_requests`
    interval_ms: int
    ttl_ns: int
    is_exponential: bool
    temporality: str  # "cumulative", "delta" or "lowmemory"
    exemplar_filter: str  # "trace_based", "always_on" or "always_off"


@dataclass(frozen=True, slots=True)
class Settings:
    open_ports: tuple[PortRange, ...]
    exe_globs: tuple[str, ...]
    target_pids: tuple[int, ...]
    trace_printer: str  # "text", "json", "counter" or "disabled"
    shutdown_timeout_ns: int
    cache_folder: str
    bcc_python: str | None
    ring_bytes: int
    max_connections: int
    socket_backend: str  # "auto", "kprobe" or "tracepoint"
    watches_tls: bool
    watches_lookups: bool
    queue_bytes: int
    user: str
    status_socket: str | None  # where `otel-ebpf status` asks
    otlp: OtlpSettings | None  # of spans; None: they are not sent
    metrics: MetricsSettings
    health: Listen | None  # where the agent tells how it is
    schedule_delay_ms: int
    max_export_batch_size: int
    max_queue_spans: int | None  # None: bounded in bytes alone
    spool_folder: str | None  # None: what waits for the collector waits in memory
    spool_bytes: int
    known_methods: tuple[str, ...]
    sampler: str
    sampler_rate: float | None  # None: the sampler's own default
    sampler_slowest: float | None
    routes: tuple[tuple[str, str], ...]  # service, "" for all; pattern
    unmatched_routes: str  # "heuristic", "wildcard" or "unset"
    attribute_value_length_limit: int | None  # characters
    attribute_count_limit: int
    request_headers: tuple[str, ...]  # that are captured
    response_headers: tuple[str, ...]
    sanitized_headers: tuple[str, ...]
    secret_query_keys: tuple[str, ...]  # besides those that always are
    shows_evidence: bool  # on spans
    parents: str  # "strict", "normal" or "off"
    node_parents: str  # "ids", "promises" or "off"
    is_disabled: bool  # OTEL_SDK_DISABLED

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> tuple["Settings", list[str]]:
        """Settings and warnings; raises one SettingsError for all values that are not allowed."""
        problems: list[tuple[str, str, str]] = []  # name, value as shown, what is allowed
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            values[setting.name] = _value_of(setting, setting.names[:1], environ, problems)
            for override in setting.overrides:
                values[override] = _value_of(setting, (setting.name, override), environ, problems)
        if not problems:
            problems = [
                problem for signal in (TRACES, METRICS) for problem in otlp_settings.contradictions(values, signal)
            ]
        if problems:
            problems = list(dict.fromkeys(problems))  # a common name counts for each signal
            raise SettingsError(
                "cannot use " + ", ".join(f"{name}={shown}" for name, shown, _ in problems),
                "\n".join(f"{name}: {allowed}" for name, _, allowed in problems),
            )
        return _resolved(values), _warnings(environ, values)


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    parse: Callable[[str], Any]
    default: str | None  # as the environment would say it; None: unset
    help: str
    overrides: tuple[str, ...] = ()  # more specific names that win over `name`, each for its own use
    is_secret: bool = False  # the value is never shown

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.overrides)


def _otlp(suffix: str, parse: Callable[[str], Any], default: str | None, text: str, is_secret: bool = False) -> Setting:
    overrides = tuple(otlp_settings.name_for(signal, suffix) for signal in (TRACES, METRICS))
    return Setting(f"OTEL_EXPORTER_OTLP_{suffix}", parse, default, text, overrides, is_secret)


SETTINGS = (
    Setting(
        "OTEL_EBPF_OPEN_PORT", parse_ports, "", "Watch processes that listen on these TCP ports, such as `80,8000-8999`"
    ),
    Setting(
        "OTEL_EBPF_AUTO_TARGET_EXE",
        parse_globs,
        "",
        "Watch processes whose executable's path matches one of these globs, such as `*/nginx,/opt/{api,web}/*`; "
        "a glob without `/` may match the file name alone. An interpreter is the executable of its scripts",
    ),
    Setting(
        "OTEL_EBPF_TARGET_PID",
        parse_pids,
        "",
        "Watch these processes. With several of the three set, matching one is enough; "
        "with none set, every process that listens on TCP is watched",
    ),
    Setting(
        "OTEL_EBPF_TRACE_PRINTER",
        one_of("text", "json", "counter", "disabled"),
        None,
        "Print each span: `text`, `json`, `counter` (only how many) or `disabled`. "
        "Unset: `text` when spans are sent nowhere else, otherwise `disabled`",
    ),
    Setting("OTEL_EBPF_SHUTDOWN_TIMEOUT", parse_duration_ns, "2s", "How long to flush at the end"),
    Setting(
        "OTEL_EBPF_CACHE_DIR", parse_absolute, "/var/cache/otel-ebpf", "Where compiled probes are kept, for root alone"
    ),
    Setting(
        "OTEL_EBPF_BCC_PYTHON",
        parse_program,
        None,
        "The Python that can import bcc. Unset: the first that can, beginning with `/usr/bin/python3`",
    ),
    Setting(
        "OTEL_EBPF_RING_BYTES",
        parse_ring_bytes,
        "8MiB",
        "Memory between kernel and exporter, a power of two. What does not fit is counted as lost",
    ),
    Setting(
        "OTEL_EBPF_SOCKET_BACKEND",
        one_of("auto", "kprobe", "tracepoint"),
        "auto",
        "Which hooks see sockets: `kprobe` (on what TCP and Unix sockets do), `tracepoint` (on system calls), or `auto`: the first "
        "where the kernel allows it",
    ),
    Setting(
        "OTEL_EBPF_TLS",
        one_of("auto", "off"),
        "auto",
        "Whether TLS is read, by uprobes on the OpenSSL or GnuTLS that targets have mapped, and in Go programs: `auto` or `off`",
    ),
    Setting(
        "OTEL_EBPF_DNS",
        one_of("auto", "off"),
        "auto",
        "Whether names that targets look up are seen, by uprobes on `getaddrinfo` of the C libraries that they have mapped: "
        "`auto` or `off`",
    ),
    Setting("OTEL_EBPF_MAX_CONNECTIONS", integer(1, 4_000_000), "16384", "Open connections followed at once"),
    Setting(
        "OTEL_EBPF_QUEUE_BYTES",
        size_bytes(1 << 16, 1 << 34),
        "16MiB",
        "Spans kept while the collector does not take them; the oldest leave first, counted",
    ),
    Setting(
        "OTEL_EBPF_SPOOL_DIR",
        parse_absolute,
        None,
        "A folder for spans that the collector does not take: there they outlive an outage, the agent and the host. Made if it is "
        "missing, for the exporter's user alone; each agent needs its own",
    ),
    Setting(
        "OTEL_EBPF_SPOOL_BYTES",
        size_bytes(8 << 20, 1 << 44),
        "1GiB",
        "How large it may grow; then the oldest leave, counted",
    ),
    Setting("OTEL_EBPF_USER", parse_user, "nobody", "The unprivileged user of the exporter"),
    Setting(
        "OTEL_EBPF_STATUS_SOCKET",
        parse_socket_path,
        "/run/otel-ebpf/status.sock",
        "Where `otel-ebpf status` asks the agent, for root alone; `none`: nowhere. A second agent on a host needs another path",
    ),
    Setting(
        "OTEL_TRACES_EXPORTER",
        parse_exporters,
        None,
        "`otlp`, `console` (as text), both, or `none`. Unset: `otlp` when an endpoint is set",
    ),
    Setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        parse_endpoint,
        None,
        "The collector: `http://host:4318`, to which `/v1/traces` is added, or `http://host:4317` for gRPC. "
        "`http://localhost` with the protocol's port when `OTEL_TRACES_EXPORTER=otlp` stands alone",
    ),
    Setting("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", parse_endpoint, None, "The same for traces alone, used as it is"),
    _otlp(
        "PROTOCOL",
        one_of(GRPC, HTTP_PROTOBUF),
        None,
        "`http/protobuf` or `grpc`. Unset: `grpc` for an endpoint on port 4317, as in OBI, otherwise `http/protobuf`",
    ),
    _otlp("HEADERS", parse_headers, "", "Sent with each export: `name=value,name=value`", is_secret=True),
    _otlp("TIMEOUT", parse_timeout_ms, "10000", "For one export, in milliseconds"),
    _otlp("COMPRESSION", one_of("gzip", "none"), "none", "`gzip` or `none`"),
    _otlp("CERTIFICATE", parse_file, None, "Certificates to trust, PEM; read as root, before rights are dropped"),
    _otlp("CLIENT_KEY", parse_file, None, "The client's private key, PEM; the same"),
    _otlp("CLIENT_CERTIFICATE", parse_file, None, "The client's certificate, PEM; the same"),
    _otlp("INSECURE", parse_boolean, "false", "gRPC without TLS, for an endpoint without `http://` or `https://`"),
    Setting(
        "OTEL_BSP_SCHEDULE_DELAY",
        integer(1, 600_000, "milliseconds"),
        "500",
        "Between two exports, in milliseconds (the specification's default is 5000)",
    ),
    Setting("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", integer(1, 100_000), "512", "Spans in one export"),
    Setting(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        integer(1, 100_000_000),
        None,
        "Most spans that wait in memory. Unset: `OTEL_EBPF_QUEUE_BYTES` alone bounds them",
    ),
    Setting(
        "OTEL_BSP_EXPORT_TIMEOUT", parse_timeout_ms, "30000", "The same bound for one export; the smaller one holds"
    ),
    Setting(
        "HTTPS_PROXY",
        parse_proxy,
        None,
        "The HTTP proxy to a collector at `https://`: `http://[user:password@]host:port`. A collector on this host "
        "(`localhost`, loopback addresses) is reached without",
        overrides=("https_proxy",),
    ),
    Setting("HTTP_PROXY", parse_proxy, None, "The same for a collector at `http://`", overrides=("http_proxy",)),
    Setting(
        "NO_PROXY",
        parse_no_proxy,
        "",
        "Collectors that are reached without a proxy: host names, ends of them (`.example.com`), addresses, networks "
        "(`10.0.0.0/8`), each with or without a port, or `*`",
        overrides=("no_proxy",),
    ),
    Setting(
        "OTEL_METRICS_EXPORTER",
        any_of("otlp", "prometheus", "none"),
        None,
        "`otlp`, `prometheus` (at `localhost:9464` unless `OTEL_EBPF_PROMETHEUS_PORT` says where), both, or `none`. "
        "Unset: `otlp` when an endpoint is set, `prometheus` when a port is",
    ),
    Setting(
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        parse_endpoint,
        None,
        "The collector for metrics alone, used as it is. The common endpoint gets `/v1/metrics` added",
    ),
    Setting(
        "OTEL_METRIC_EXPORT_INTERVAL",
        integer(100, 86_400_000, "milliseconds"),
        "60000",
        "Between two exports of metrics, in milliseconds",
    ),
    Setting(
        "OTEL_METRIC_EXPORT_TIMEOUT",
        parse_timeout_ms,
        "30000",
        "A bound for one export of metrics; the smaller one holds",
    ),
    Setting(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        one_of("cumulative", "delta", "lowmemory"),
        "cumulative",
        "Totals since a start, or differences since the last export; `lowmemory`: differences for histograms alone",
    ),
    Setting(
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        one_of(EXPLICIT_BUCKETS, "base2_exponential_bucket_histogram"),
        EXPLICIT_BUCKETS,
        "The conventions' buckets, or exponential ones that adapt, over OTLP; Prometheus always gets the conventions'",
    ),
    Setting(
        "OTEL_METRICS_EXEMPLAR_FILTER",
        one_of("always_on", "always_off", "trace_based"),
        "trace_based",
        "Whether histograms name a span for each bucket, one that was kept; `always_on` is the same here",
    ),
    Setting(
        "OTEL_EBPF_HTTP_METRICS",
        any_of("duration", "body_size", "active_requests"),
        "duration",
        "What is measured of served and of made requests: `body_size` and `active_requests` when named here, `duration` always",
    ),
    Setting(
        "OTEL_EBPF_METRICS_TTL", parse_duration_ns, "5m", "A series that nothing has come to for so long is forgotten"
    ),
    Setting(
        "OTEL_EBPF_PROMETHEUS_PORT",
        parse_listen,
        None,
        "Where Prometheus scrapes: a port, on all addresses of the host, or `address:port`",
    ),
    Setting("OTEL_EBPF_PROMETHEUS_PATH", parse_absolute, "/metrics", "Its path"),
    Setting(
        "OTEL_EBPF_HEALTH_CHECK_PORT",
        parse_listen,
        None,
        "Where the agent tells how it is, at `/livez` and `/readyz`: a port or `address:port`; it may be Prometheus's",
    ),
    Setting(
        "OTEL_TRACES_SAMPLER",
        one_of(*SAMPLERS),
        "parentbased_always_on",
        "Which requests give a span: `always_on`, `always_off`, `traceidratio`; with `parentbased_` before it, those that carry "
        "a `traceparent` do as its sampled flag says, and the sampler decides on the others. `otel_ebpf_outcome` decides when the "
        "request has ended: errors, the slowest of each route, and a share of the rest",
    ),
    Setting(
        "OTEL_TRACES_SAMPLER_ARG",
        parse_sampler_argument,
        "",
        "The share that `traceidratio` keeps, from 0 to 1 (unset: 1). For `otel_ebpf_outcome` the share of the rest, or "
        "`rate=0.1,slowest=0.01`, which it is when nothing is set",
    ),
    Setting(
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        integer(0, 1 << 30),
        None,
        "Longest text of an attribute, in characters",
        overrides=("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",),
    ),
    Setting(
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        integer(0, 1 << 30),
        "128",
        "Most attributes of a span",
        overrides=("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",),
    ),
    Setting(
        "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS",
        parse_methods,
        "GET,HEAD,POST,PUT,DELETE,CONNECT,OPTIONS,TRACE,PATCH,QUERY",
        "Methods that are named; others are `_OTHER`",
    ),
    Setting(
        "OTEL_EBPF_ROUTES",
        parse_routes,
        "",
        "Routes of the services, such as `/users/{id},/files/**,shop:/cart/{cart}/*`, the last of the service `shop` alone; "
        "or `@/path/of/a/file` that has one a line. The first that matches is `http.route`. `{name}` and `*` stand for one "
        "segment or the rest of one, `**` for any number",
    ),
    Setting(
        "OTEL_EBPF_ROUTES_UNMATCHED",
        one_of("heuristic", "wildcard", "unset"),
        "heuristic",
        "What else is a route: `heuristic` (what looks like data becomes `{id}`), `wildcard` (`/**`) or `unset` (nothing; "
        "spans are named by their method)",
    ),
    Setting(
        "OTEL_EBPF_PARENTS",
        one_of("normal", "strict", "off"),
        "normal",
        "Which spans of this host are linked besides by `traceparent`: `normal`, each with what caused it; `strict`, only "
        "where it can be no other one, and while nothing of its response had been sent; `off`, none",
    ),
    Setting(
        "OTEL_EBPF_NODE_PARENTS",
        one_of("ids", "promises", "off"),
        "ids",
        "Which calls of Node programs belong to the request that caused them: `ids`, as far as Node's own numbers of callbacks "
        "tell; `promises`, also behind `await` and in `then`, by probes within V8; `off`, none",
    ),
    Setting(
        "OTEL_EBPF_SPAN_EVIDENCE",
        parse_boolean,
        "false",
        "`true`: spans say in `otel_ebpf.evidence.*` which of their fields were inferred, and from what",
    ),
    Setting(
        "OTEL_EBPF_CAPTURE_REQUEST_HEADERS",
        parse_header_names,
        "",
        "Headers of requests that spans show, such as `content-type,x-request-id`. Those that hold credentials by their names "
        "(`authorization`, `cookie`, `x-api-key` and the like) are shown as `REDACTED`",
    ),
    Setting("OTEL_EBPF_CAPTURE_RESPONSE_HEADERS", parse_header_names, "", "The same of responses"),
    Setting(
        "OTEL_EBPF_CAPTURE_SANITIZE_HEADERS",
        parse_header_globs,
        "",
        "What else is shown as `REDACTED` of those headers, such as `x-customer,x-internal-*`",
    ),
    Setting(
        "OTEL_EBPF_SENSITIVE_QUERY_PARAMS_ADD",
        parse_query_keys,
        "",
        "Keys of queries, such as `customer,invite_code`, whose values are shown as `REDACTED`, besides those that always are",
    ),
    Setting("OTEL_SDK_DISABLED", parse_boolean, "false", "`true`: `run` ends at once, having watched nothing"),
)

# Standard names that someone may set and that have no effect here, with the reason.
NOT_USED = {
    "OTEL_CONFIG_FILE": "settings come from the environment alone",
    "OTEL_SERVICE_NAME": "each service is named by its own environment, see OTEL_SERVICE_NAME of that process",
}

# Of OpenTelemetry eBPF Instrumentation, without their prefix OTEL_EBPF_; each leaves this list when it is supported.
_OBI_NAMES = """
AUTO_TARGET_LANGUAGE BPF_BATCH_LENGTH BPF_BATCH_TIMEOUT BPF_BUFFER_SIZE_HTTP BPF_BUFFER_SIZE_KAFKA
BPF_BUFFER_SIZE_MSSQL BPF_BUFFER_SIZE_MYSQL BPF_BUFFER_SIZE_POSTGRES BPF_BUFFER_SIZE_TCP BPF_CONTEXT_PROPAGATION
BPF_DEBUG BPF_FS_PATH BPF_HIGH_REQUEST_VOLUME BPF_HTTP_REQUEST_TIMEOUT BPF_MAX_TRANSACTION_TIME
BPF_METRIC_SCRAPE_INTERVAL BPF_TC_BACKEND BPF_TRACK_REQUEST_HEADERS BPF_WAKEUP_LEN CHANNEL_BUFFER_LEN
CHANNEL_SEND_TIMEOUT CHANNEL_SEND_TIMEOUT_PANIC CONFIG_PATH DISCOVERY_POLL_INTERVAL ENFORCE_SYS_CAPS
EXCLUDE_OTEL_INSTRUMENTED_SERVICES EXECUTABLE_NAME EXECUTABLE_PATH HEURISTIC_SQL_DETECT HOSTNAME
HOST_ID HTTP_ENRICHMENT_ENABLED HTTP_ENRICHMENT_OBFUSCATION_STRING INTERNAL_METRICS_EXPORTER
INTERNAL_METRICS_PROMETHEUS_PATH INTERNAL_METRICS_PROMETHEUS_PORT JAVAAGENT_ENABLED KUBE_CLUSTER_NAME
KUBE_INFORMERS_RESYNC KUBE_INFORMERS_SYNC_TIMEOUT KUBE_METADATA_ENABLE KUBE_META_CACHE_ADDRESS
KUBE_META_RESTRICT_LOCAL_NODE LOG_CONFIG LOG_FORMAT LOG_LEVEL METRICS_FEATURES METRICS_INSTRUMENTATIONS METRICS_INTERVAL
METRICS_REPORT_CACHE_LEN METRIC_SPAN_NAMES_LIMIT MIN_PROCESS_AGE NAME_RESOLVER_SOURCES
NETWORK_CACHE_ACTIVE_TIMEOUT NETWORK_CACHE_MAX_FLOWS NETWORK_METRICS NETWORK_SOURCE NODEJS_ENABLED
OTLP_TRACES_BATCH_MAX_SIZE OTLP_TRACES_BATCH_TIMEOUT OTLP_TRACES_QUEUE_SIZE OVERRIDE_BPF_LOOP_ENABLED PROFILE_PORT
PROMETHEUS_EXEMPLAR_FILTER RENAME_UNRESOLVED_HOSTS RENAME_UNRESOLVED_HOSTS_INCOMING
RENAME_UNRESOLVED_HOSTS_OUTGOING SENSITIVE_QUERY_PARAMS_REMOVE SERVICE_NAME
SERVICE_NAMESPACE SKIP_GO_SPECIFIC_TRACERS TRACES_INSTRUMENTATIONS
"""
OBI_NAMES = frozenset("OTEL_EBPF_" + name for name in _OBI_NAMES.split())


def _value_of(
    setting: Setting, names: Iterable[str], environ: Mapping[str, str], problems: list[tuple[str, str, str]]
) -> Any:
    """The value of the last of the names that is set; every name that is set must hold an allowed value."""
    value = None if setting.default is None else setting.parse(setting.default)
    for name in names:
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            value = setting.parse(text)
        except ValueError as error:
            problems.append((name, _shown(setting, text), str(error)))
    return value


def _shown(setting: Setting, text: str) -> str:
    """The value for an error message: no secrets, no control characters, no novels."""
    if setting.is_secret:
        return "(not shown)"
    text = re.sub(r"(//|^)[^/@\s]*@", r"\1(not shown)@", text)
    return repr(text[:100] + "…" if len(text) > 100 else text)


def _resolved(values: Mapping[str, Any]) -> Settings:
    exporters = values["OTEL_TRACES_EXPORTER"] or ()
    otlp = otlp_settings.resolve(values, TRACES)
    printer = values["OTEL_EBPF_TRACE_PRINTER"]
    if printer is None:
        # Never mute by accident: `none` is the one way to ask for neither.
        printer = "text" if "console" in exporters or (otlp is None and "none" not in exporters) else "disabled"
    return Settings(
        open_ports=values["OTEL_EBPF_OPEN_PORT"],
        exe_globs=values["OTEL_EBPF_AUTO_TARGET_EXE"],
        target_pids=values["OTEL_EBPF_TARGET_PID"],
        trace_printer=printer,
        shutdown_timeout_ns=values["OTEL_EBPF_SHUTDOWN_TIMEOUT"],
        cache_folder=values["OTEL_EBPF_CACHE_DIR"],
        bcc_python=values["OTEL_EBPF_BCC_PYTHON"],
        ring_bytes=values["OTEL_EBPF_RING_BYTES"],
        max_connections=values["OTEL_EBPF_MAX_CONNECTIONS"],
        socket_backend=values["OTEL_EBPF_SOCKET_BACKEND"],
        watches_tls=values["OTEL_EBPF_TLS"] == "auto",
        watches_lookups=values["OTEL_EBPF_DNS"] == "auto",
        queue_bytes=values["OTEL_EBPF_QUEUE_BYTES"],
        user=values["OTEL_EBPF_USER"],
        status_socket=values["OTEL_EBPF_STATUS_SOCKET"],
        otlp=otlp,
        metrics=_metrics(values),
        health=values["OTEL_EBPF_HEALTH_CHECK_PORT"],
        schedule_delay_ms=values["OTEL_BSP_SCHEDULE_DELAY"],
        max_export_batch_size=values["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"],
        max_queue_spans=values["OTEL_BSP_MAX_QUEUE_SIZE"],
        spool_folder=values["OTEL_EBPF_SPOOL_DIR"],
        spool_bytes=values["OTEL_EBPF_SPOOL_BYTES"],
        known_methods=values["OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"],
        sampler=values["OTEL_TRACES_SAMPLER"],
        sampler_rate=values["OTEL_TRACES_SAMPLER_ARG"][0],
        sampler_slowest=values["OTEL_TRACES_SAMPLER_ARG"][1],
        routes=values["OTEL_EBPF_ROUTES"],
        unmatched_routes=values["OTEL_EBPF_ROUTES_UNMATCHED"],
        attribute_value_length_limit=values["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"],
        attribute_count_limit=values["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"],
        request_headers=values["OTEL_EBPF_CAPTURE_REQUEST_HEADERS"],
        response_headers=values["OTEL_EBPF_CAPTURE_RESPONSE_HEADERS"],
        sanitized_headers=values["OTEL_EBPF_CAPTURE_SANITIZE_HEADERS"],
        secret_query_keys=values["OTEL_EBPF_SENSITIVE_QUERY_PARAMS_ADD"],
        shows_evidence=values["OTEL_EBPF_SPAN_EVIDENCE"],
        parents=values["OTEL_EBPF_PARENTS"],
        node_parents=values["OTEL_EBPF_NODE_PARENTS"],
        is_disabled=values["OTEL_SDK_DISABLED"],
    )


def _metrics(values: Mapping[str, Any]) -> MetricsSettings:
    exporters = values["OTEL_METRICS_EXPORTER"]
    prometheus = values["OTEL_EBPF_PROMETHEUS_PORT"]
    if exporters and "prometheus" in exporters:
        prometheus = prometheus or DEFAULT_PROMETHEUS
    elif exporters:
        prometheus = None
    return MetricsSettings(
        otlp=otlp_settings.resolve(values, METRICS),
        prometheus=prometheus,
        prometheus_path=values["OTEL_EBPF_PROMETHEUS_PATH"],
        http=values["OTEL_EBPF_HTTP_METRICS"],
        interval_ms=values["OTEL_METRIC_EXPORT_INTERVAL"],
        ttl_ns=values["OTEL_EBPF_METRICS_TTL"],
        is_exponential=values["OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"] != EXPLICIT_BUCKETS,
        temporality=values["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"],
        exemplar_filter=values["OTEL_METRICS_EXEMPLAR_FILTER"],
    )


def _warnings(environ: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    known = {name for setting in SETTINGS for name in setting.names}
    warnings = []
    sampler, (rate, slowest) = values["OTEL_TRACES_SAMPLER"], values["OTEL_TRACES_SAMPLER_ARG"]
    if sampler != _OUTCOME and slowest is not None:
        warnings.append(f"slowest in OTEL_TRACES_SAMPLER_ARG has no effect: it is for {_OUTCOME}, not for {sampler}")
    if sampler != _OUTCOME and "ratio" not in sampler and rate is not None:
        warnings.append(f"OTEL_TRACES_SAMPLER_ARG has no effect: {sampler} takes none")
    for name in sorted(environ):
        if name in NOT_USED and environ[name].strip():
            warnings.append(f"{name} has no effect: {NOT_USED[name]}")
        elif name in OBI_NAMES:
            warnings.append(f"{name} is known to OBI, not supported here")
        elif name.startswith("OTEL_EBPF_") and name not in known:
            import difflib  # only when something is wrong: keeps it out of the probe's memory

            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)
            warnings.append(f"{name} is not a setting" + (f"; did you mean {close[0]}?" if close else ""))
    return warnings


def settings_table() -> str:
    """The table of README.md, in Markdown."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        names = "<br>".join(f"`{name}`" for name in setting.names)
        rows.append(f"| {names} | {f'`{setting.default}`' if setting.default else 'unset'} | {setting.help} |")
    return "\n".join(rows)


def with_settings_table(readme: str) -> str:
    """README.md with its table brought up to date; it is put at the end when the markers are missing."""
    begin, end = "<!-- settings -->", "<!-- /settings -->"
    table = f"{begin}\n{settings_table()}\n{end}"
    if begin not in readme or end not in readme:
        return f"{readme}{table}\n"
    return readme[: readme.index(begin)] + table + readme[readme.index(end) + len(end) :]


def _main() -> None:
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "README.md")
    readme = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            readme = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(with_settings_table(readme))


if __name__ == "__main__":
    _main()
