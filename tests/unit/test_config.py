"""Settings: what each may hold, what the defaults are, and what the user is told."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.config import NOT_USED, OBI_NAMES, SETTINGS, Settings
from otel_ebpf.errors import SettingsError
from otel_ebpf.otlp_settings import GRPC, HTTP_PROTOBUF, OtlpSettings

BY_NAME = {name: setting for setting in SETTINGS for name in setting.names}


def settings(**environ: str) -> Settings:
    return Settings.from_environ(environ)[0]


def warnings(**environ: str) -> list[str]:
    return Settings.from_environ(environ)[1]


def otlp(**environ: str) -> OtlpSettings:
    found = settings(**{f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()}).otlp
    assert found is not None
    return found


def refusal(**environ: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ)
    return caught.value


# --- All settings alike ---


def test_an_empty_environment_gives_the_defaults_and_no_warning() -> None:
    found, warned = Settings.from_environ({"PATH": "/bin", "OTEL": "x"})

    assert [] == warned
    assert ((), (), ()) == (found.open_ports, found.exe_globs, found.target_pids)
    assert (8 << 20, 16384, 16 << 20) == (found.ring_bytes, found.max_connections, found.queue_bytes)
    assert (2_000_000_000, "nobody") == (found.shutdown_timeout_ns, found.user)
    assert (500, 512, 10) == (found.schedule_delay_ms, found.max_export_batch_size, len(found.known_methods))
    assert (None, 128, False) == (found.attribute_value_length_limit, found.attribute_count_limit, found.is_disabled)
    assert found.otlp is None


@pytest.mark.parametrize("name", BY_NAME)
def test_an_empty_value_counts_as_unset(name: str) -> None:
    """OpenTelemetry specification, environment variables."""
    assert Settings.from_environ({name: " "}) == Settings.from_environ({})


@pytest.mark.parametrize("name", [name for name in BY_NAME if "HEADERS" not in name and "_EXE" not in name])
def test_a_bad_value_is_refused_with_name_value_and_what_is_allowed(name: str) -> None:
    error = refusal(**{name: "\x01 //?"})

    assert name in error.what
    assert "\\x01" in error.what or "//?" in error.what
    assert f"{name}: " in error.remedy


def test_all_bad_values_are_told_at_once() -> None:
    error = refusal(OTEL_EBPF_OPEN_PORT="http", OTEL_EBPF_RING_BYTES="3", OTEL_EXPORTER_OTLP_TIMEOUT="10s")

    assert error.what == (
        "cannot use OTEL_EBPF_OPEN_PORT='http', OTEL_EBPF_RING_BYTES='3', OTEL_EXPORTER_OTLP_TIMEOUT='10s'"
    )
    assert 3 == len(error.remedy.splitlines())
    assert 2 == error.exit_code


@given(st.sampled_from(sorted(BY_NAME)), st.text(max_size=30))
def test_any_text_is_a_value_or_a_settings_error(name: str, text: str) -> None:
    try:
        Settings.from_environ({name: text})
    except SettingsError as error:
        assert name in error.remedy


def test_a_secret_is_not_shown_when_it_is_refused() -> None:
    headers = refusal(OTEL_EXPORTER_OTLP_HEADERS="hunter2")
    url = refusal(OTEL_EXPORTER_OTLP_ENDPOINT="ftp://user:hunter2@host")

    assert "hunter2" not in headers.what + headers.remedy
    assert "hunter2" not in url.what + url.remedy


def test_a_long_value_is_shown_short() -> None:
    assert len(refusal(OTEL_EBPF_OPEN_PORT="9" * 10_000).what) < 200


# --- Names that are no settings ---


def test_an_unknown_name_is_warned_about_with_the_one_that_was_meant() -> None:
    assert ["OTEL_EBPF_OPEN_PORTS is not a setting; did you mean OTEL_EBPF_OPEN_PORT?"] == warnings(
        OTEL_EBPF_OPEN_PORTS="80"
    )
    assert ["OTEL_EBPF_XYZ is not a setting"] == warnings(OTEL_EBPF_XYZ="1")


def test_a_name_of_obi_is_told_apart_from_a_mistake() -> None:
    assert ["OTEL_EBPF_KUBE_CLUSTER_NAME is known to OBI, not supported here"] == warnings(
        OTEL_EBPF_KUBE_CLUSTER_NAME="1"
    )


def test_a_standard_name_without_effect_is_warned_about() -> None:
    assert ["OTEL_CONFIG_FILE has no effect: settings come from the environment alone"] == (
        warnings(OTEL_CONFIG_FILE="/x.yaml")
    )


def test_a_supported_name_is_in_no_list_of_unsupported_ones() -> None:
    assert not BY_NAME.keys() & OBI_NAMES
    assert not BY_NAME.keys() & NOT_USED.keys()


# --- Single settings ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ((80, 80),)),
        ("80,8000-8999", ((80, 80), (8000, 8999))),
        (" 1 , 65535 ,", ((1, 1), (65535, 65535))),
    ],
)
def test_ports_and_ranges_are_read(text: str, expected: Any) -> None:
    assert expected == settings(OTEL_EBPF_OPEN_PORT=text).open_ports


@pytest.mark.parametrize("text", ["0", "65536", "90-80", "80-", "-80", "80 90", "a", "80,b", "٣"])
def test_what_is_no_port_is_refused(text: str) -> None:
    assert "80,8000-8999" in refusal(OTEL_EBPF_OPEN_PORT=text).remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/nginx", ("*/nginx",)),
        ("*/nginx, /opt/app", ("*/nginx", "/opt/app")),
        ("/opt/{api,web}/*,x", ("/opt/api/*", "/opt/web/*", "x")),
        ("{a,b}{1,2}", ("a1", "a2", "b1", "b2")),
        ("{a,{b,c}d}", ("a", "bd", "cd")),
    ],
)
def test_globs_are_separated_by_commas_outside_of_braces(text: str, expected: Any) -> None:
    assert set(expected) == set(settings(OTEL_EBPF_AUTO_TARGET_EXE=text).exe_globs)


@pytest.mark.parametrize("text", ["{a", "a}", "{a,b}}", "}{", "{a,b}" * 12])
def test_braces_that_do_not_match_or_explode_are_refused(text: str) -> None:
    assert "glob" in refusal(OTEL_EBPF_AUTO_TARGET_EXE=text).remedy


@pytest.mark.parametrize(
    ("text", "expected_ms"), [("2s", 2000), ("500ms", 500), ("1m30s", 90_000), ("1.5s", 1500), ("1h", 3_600_000)]
)
def test_durations_are_written_as_in_go(text: str, expected_ms: int) -> None:
    assert expected_ms * 1_000_000 == settings(OTEL_EBPF_SHUTDOWN_TIMEOUT=text).shutdown_timeout_ns


@pytest.mark.parametrize("text", ["2", "0s", "-1s", "s", "2 s", "61m", "1h1ms", "2sx"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert "1m30s" in refusal(OTEL_EBPF_SHUTDOWN_TIMEOUT=text).remedy


@pytest.mark.parametrize(("text", "expected"), [("8MiB", 8 << 20), ("4096", 4096), ("64KiB", 65536), ("1GiB", 1 << 30)])
def test_the_ring_is_a_power_of_two_of_whole_pages(text: str, expected: int) -> None:
    assert expected == settings(OTEL_EBPF_RING_BYTES=text).ring_bytes


@pytest.mark.parametrize("text", ["12288", "2048", "3MiB", "2GiB", "8MB"])
def test_a_ring_that_the_kernel_would_refuse_is_refused(text: str) -> None:
    assert "8MiB" in refusal(OTEL_EBPF_RING_BYTES=text).remedy


@pytest.mark.parametrize("user", ["root", "0", "no-such-user", "4294967295", "-1"])
def test_the_exporter_never_runs_as_root_or_nobody_known(user: str) -> None:
    assert "other than root" in refusal(OTEL_EBPF_USER=user).remedy


def test_paths_must_be_there(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.touch()
    assert "OTEL_EBPF_BCC_PYTHON" in refusal(OTEL_EBPF_BCC_PYTHON=str(program)).what
    program.chmod(0o755)

    assert str(program) == settings(OTEL_EBPF_BCC_PYTHON=str(program)).bcc_python
    assert "absolute" in refusal(OTEL_EBPF_CACHE_DIR="cache").remedy


def test_the_status_socket_has_a_path_that_fits_or_none() -> None:
    """struct sockaddr_un has room for 107 bytes and a zero."""
    assert "/run/otel-ebpf/status.sock" == settings().status_socket
    assert "/" + "x" * 106 == settings(OTEL_EBPF_STATUS_SOCKET="/" + "x" * 106).status_socket
    assert settings(OTEL_EBPF_STATUS_SOCKET="none").status_socket is None
    for path in ("status.sock", "/" + "x" * 107):
        assert "107" in refusal(OTEL_EBPF_STATUS_SOCKET=path).remedy


def test_known_methods_replace_the_list_and_keep_their_case() -> None:
    assert ("GET", "Purge") == settings(OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS="GET, Purge").known_methods
    assert "GET,POST" in refusal(OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS="GET POST").remedy


def test_the_smaller_of_the_two_export_timeouts_holds() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_BSP_EXPORT_TIMEOUT": "700"}
    found = settings(**environ).otlp

    assert found is not None
    assert 700 == found.timeout_ms


def test_the_limit_for_spans_wins_over_the_general_one() -> None:
    found = settings(OTEL_ATTRIBUTE_COUNT_LIMIT="10", OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="20")

    assert 20 == found.attribute_count_limit
    assert settings(OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="10").attribute_value_length_limit == 10


# --- Where spans go ---


@pytest.mark.parametrize(
    ("environ", "printer", "is_sent"),
    [
        ({}, "text", False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "disabled", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EBPF_TRACE_PRINTER": "json"}, "json", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, "disabled", False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "console"}, "text", False),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, "text", True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "disabled", True),
        ({"OTEL_EBPF_TRACE_PRINTER": "disabled"}, "disabled", False),
        ({"OTEL_EBPF_TRACE_PRINTER": "COUNTER"}, "counter", False),
    ],
)
def test_the_agent_prints_when_nothing_else_would_show_a_span(
    environ: dict[str, str], printer: str, is_sent: bool
) -> None:
    found = settings(**environ)

    assert (printer, is_sent) == (found.trace_printer, found.otlp is not None)


@pytest.mark.parametrize(
    ("environ", "protocol", "endpoint"),
    [
        ({"ENDPOINT": "http://c:4318"}, HTTP_PROTOBUF, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c:4318/"}, HTTP_PROTOBUF, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "https://c/otlp/"}, HTTP_PROTOBUF, "https://c/otlp/v1/traces"),
        ({"TRACES_ENDPOINT": "http://c:4318"}, HTTP_PROTOBUF, "http://c:4318/"),
        ({"TRACES_ENDPOINT": "http://c:4318/x/y"}, HTTP_PROTOBUF, "http://c:4318/x/y"),
        ({"TRACES_ENDPOINT": "http://t:4318/t", "ENDPOINT": "http://c:4318"}, HTTP_PROTOBUF, "http://t:4318/t"),
        ({"ENDPOINT": "http://c:4317"}, GRPC, "http://c:4317"),
        ({"ENDPOINT": "http://c:4317", "PROTOCOL": "http/protobuf"}, HTTP_PROTOBUF, "http://c:4317/v1/traces"),
        ({"ENDPOINT": "http://c:9", "PROTOCOL": "grpc"}, GRPC, "http://c:9"),
        ({"ENDPOINT": "http://c:9", "PROTOCOL": "http/protobuf", "TRACES_PROTOCOL": "grpc"}, GRPC, "http://c:9"),
        ({"ENDPOINT": "c:4317"}, GRPC, "https://c:4317"),
        ({"ENDPOINT": "c:4317", "INSECURE": "true"}, GRPC, "http://c:4317"),
        ({"ENDPOINT": "http://[::1]:4317"}, GRPC, "http://[::1]:4317"),
    ],
)
def test_the_endpoint_follows_the_exporter_specification(environ: dict[str, str], protocol: str, endpoint: str) -> None:
    """Base endpoints get the signal's path, endpoints of the signal are used as they are; gRPC has no path."""
    found = otlp(**environ)

    assert (protocol, endpoint) == (found.protocol, found.endpoint)
    assert found.insecure == endpoint.startswith("http:")


@pytest.mark.parametrize(
    ("protocol", "expected"), [("grpc", "http://localhost:4317"), ("", "http://localhost:4318/v1/traces")]
)
def test_an_exporter_without_an_endpoint_sends_to_this_host(protocol: str, expected: str) -> None:
    found = settings(OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_PROTOCOL=protocol).otlp

    assert found is not None
    assert found.endpoint == expected


# --- Metrics ---


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "http://c:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/t"}, None),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:1/x"}, "http://m:1/x"),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "http://localhost:4318/v1/metrics"),
    ],
)
def test_metrics_are_sent_where_an_endpoint_is_named_for_them(environ: dict[str, str], endpoint: str | None) -> None:
    """The common one, or their own; that of traces is for traces alone."""
    found = settings(**environ).metrics.otlp

    assert endpoint == (found and found.endpoint)


def test_each_signal_has_names_of_its_own_that_win_over_the_common_ones() -> None:
    found = settings(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318",
        OTEL_EXPORTER_OTLP_HEADERS="a=1",
        OTEL_EXPORTER_OTLP_METRICS_HEADERS="a=2",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_METRICS_COMPRESSION="none",
        OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_METRICS_TIMEOUT="7000",
        OTEL_METRIC_EXPORT_TIMEOUT="5000",
    )
    traces, of_metrics = found.otlp, found.metrics.otlp

    assert traces is not None
    assert of_metrics is not None
    assert ((("a", "1"),), "gzip", HTTP_PROTOBUF, 10_000) == (
        traces.headers,
        traces.compression,
        traces.protocol,
        traces.timeout_ms,
    )
    assert ((("a", "2"),), "none", GRPC, 5000) == (
        of_metrics.headers,
        of_metrics.compression,
        of_metrics.protocol,
        of_metrics.timeout_ms,
    )
    assert "http://c:4318" == of_metrics.endpoint


def test_what_is_measured_and_in_which_form() -> None:
    plain = settings().metrics
    assert (("duration",), 60_000, 300_000_000_000) == (plain.http, plain.interval_ms, plain.ttl_ns)
    assert (False, "cumulative", "trace_based") == (plain.is_exponential, plain.temporality, plain.exemplar_filter)

    found = settings(
        OTEL_EBPF_HTTP_METRICS="duration, body_size",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_EBPF_METRICS_TTL="10m",
        OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="BASE2_EXPONENTIAL_BUCKET_HISTOGRAM",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="Delta",
    ).metrics
    assert (("duration", "body_size"), 1000, 600_000_000_000) == (found.http, found.interval_ms, found.ttl_ns)
    assert (True, "delta") == (found.is_exponential, found.temporality)


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({}, None),
        ({"OTEL_EBPF_PROMETHEUS_PORT": "9000"}, ("", 9000)),
        ({"OTEL_EBPF_PROMETHEUS_PORT": "127.0.0.1:9000"}, ("127.0.0.1", 9000)),
        ({"OTEL_EBPF_PROMETHEUS_PORT": "[::1]:9000"}, ("::1", 9000)),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, ("localhost", 9464)),
        ({"OTEL_METRICS_EXPORTER": "prometheus,otlp", "OTEL_EBPF_PROMETHEUS_PORT": "9000"}, ("", 9000)),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EBPF_PROMETHEUS_PORT": "9000"}, None),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EBPF_PROMETHEUS_PORT": "9000"}, None),
    ],
)
def test_prometheus_is_served_where_a_port_says_or_the_exporter_is_named(
    environ: dict[str, str], where: tuple[str, int] | None
) -> None:
    assert where == settings(**environ).metrics.prometheus


@pytest.mark.parametrize("text", ["0", "65536", "http://a:1", "a b:1", ":", "::1", "1:", "[::1]", "+1"])
def test_what_is_no_place_to_listen_is_refused(text: str) -> None:
    assert "127.0.0.1:9464" in refusal(OTEL_EBPF_HEALTH_CHECK_PORT=text).remedy


def test_a_wrong_common_endpoint_is_told_once() -> None:
    """Though it is wrong for both signals."""
    assert 1 == len(refusal(OTEL_EXPORTER_OTLP_ENDPOINT="c:4318").remedy.splitlines())


@pytest.mark.parametrize(
    "text", ["c", "http://", "ftp://c", "http://c:99999", "http://c:x", "http://a b", "http://c/?q", "c:0", "["]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    assert "http://localhost:4318" in refusal(OTEL_EXPORTER_OTLP_ENDPOINT=text).remedy


def test_an_address_without_a_scheme_is_for_grpc_alone() -> None:
    error = refusal(OTEL_EXPORTER_OTLP_ENDPOINT="c:4318")

    assert "http://c:4318" in error.remedy
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in error.remedy


def test_headers_are_decoded_and_their_names_are_in_lower_case() -> None:
    """gRPC takes no other names; HTTP does not care."""
    found = otlp(ENDPOINT="http://c:4318", HEADERS="Authorization=Bearer%20a%3Db, X-Tenant=1 ,")

    assert (("authorization", "Bearer a=b"), ("x-tenant", "1")) == found.headers


def test_the_endpoint_is_shown_without_credentials() -> None:
    assert "http://c:1/v1/traces" == otlp(ENDPOINT="http://user:pw@c:1").endpoint_for_people


@pytest.mark.parametrize("text", ["a", "=b", "a b=c", "a=b%0d%0aX: y", "a=\x7f"])
def test_a_header_that_could_begin_another_one_is_refused(text: str) -> None:
    assert "OTEL_EXPORTER_OTLP_HEADERS" in refusal(OTEL_EXPORTER_OTLP_HEADERS=text).what


def test_timeouts_are_milliseconds_and_zero_is_no_limit() -> None:
    assert otlp(ENDPOINT="http://c:4318").timeout_ms == 10_000
    assert otlp(ENDPOINT="http://c:4318", TIMEOUT="0").timeout_ms == 30_000  # the bound of OTEL_BSP_EXPORT_TIMEOUT
    assert otlp(ENDPOINT="http://c:4318", TIMEOUT="5", TRACES_TIMEOUT="7").timeout_ms == 7


def test_a_clients_key_and_certificate_go_together(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    key.touch()
    certificate.touch()
    found = otlp(ENDPOINT="https://c", CLIENT_KEY=str(key), CLIENT_CERTIFICATE=str(certificate))

    assert (str(key), str(certificate)) == (found.client_key, found.client_certificate)
    assert "OTEL_EXPORTER_OTLP_CLIENT_KEY" in refusal(OTEL_EXPORTER_OTLP_CLIENT_KEY=str(key)).what


# --- Proxies ---

PROXY = "http://user:pw@proxy:3128"


@pytest.mark.parametrize(
    ("endpoint", "exempt", "is_used"),
    [
        ("http://c.example.com:4318", "", True),
        ("http://c.example.com:4318", "example.com", False),
        ("http://c.example.com:4318", ".example.com", False),
        ("http://c.example.com:4318", "*.example.com", False),
        ("http://c.example.com:4318", "c.example.com:4318", False),
        ("http://c.example.com:4318", "c.example.com:4319", True),
        ("http://notexample.com:4318", "example.com", True),
        ("http://c.example.com:4318", "other, EXAMPLE.com", False),
        ("http://c.example.com:4318", "*", False),
        ("http://10.1.2.3:4318", "10.0.0.0/8", False),
        ("http://10.1.2.3:4318", "10.1.2.3", False),
        ("http://10.1.2.3:4318", "10.1.2.3:4318", False),
        ("http://11.1.2.3:4318", "10.0.0.0/8,2.3", True),
        ("http://[fd00::1]:4318", "fd00::/8", False),
        ("http://[fd00::1]:4318", "fd00::1", False),
        ("http://[fd00::1]:4318", "[fd00::1]:4318", False),
        ("http://localhost:4318", "", False),
        ("http://127.0.0.9:4318", "", False),
        ("http://[::1]:4318", "", False),
    ],
)
def test_a_proxy_is_used_unless_no_proxy_names_the_collector(endpoint: str, exempt: str, is_used: bool) -> None:
    """As Go's programs do, which this agent stands beside: this host itself is never asked for through a proxy."""
    found = settings(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, HTTP_PROXY=PROXY, NO_PROXY=exempt).otlp

    assert found is not None
    assert (PROXY if is_used else None) == found.proxy


def test_the_scheme_of_the_endpoint_decides_which_proxy_is_meant_and_small_letters_win() -> None:
    both = {"HTTP_PROXY": "http://plain:1", "HTTPS_PROXY": "http://tls:1", "http_proxy": "small:1"}
    found = [settings(OTEL_EXPORTER_OTLP_ENDPOINT=f"{scheme}://c", **both).otlp for scheme in ("http", "https")]

    assert ["http://small:1", "http://tls:1"] == [otlp.proxy for otlp in found if otlp]


def test_a_proxy_of_another_kind_matters_only_where_it_would_be_used() -> None:
    """The variable is the whole host's; its password is shown nowhere."""
    kind = {"HTTP_PROXY": "socks5://user:hunter2@proxy:1"}
    error = refusal(OTEL_EXPORTER_OTLP_ENDPOINT="http://c", **kind)

    assert "HTTP_PROXY" in error.what
    assert "hunter2" not in f"{error.what}{error.remedy}"
    assert settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost", **kind).otlp
    assert "hunter2" not in refusal(HTTP_PROXY="user:hunter2@proxy:x").what


# --- Sampling ---


def test_without_settings_the_callers_decide_and_new_traces_are_kept() -> None:
    """OpenTelemetry specification: parentbased_always_on."""
    assert ("parentbased_always_on", None) == (settings().sampler, settings().sampler_rate)


@pytest.mark.parametrize("root", ["always_on", "always_off", "traceidratio"])
def test_every_standard_sampler_is_known_in_any_case(root: str) -> None:
    for name in (root, f"parentbased_{root}", f"ParentBased_{root.upper()}", "otel_ebpf_outcome"):
        assert name.lower() == settings(OTEL_TRACES_SAMPLER=name).sampler


@pytest.mark.parametrize("name", ["jaeger_remote", "xray", "ratio", "0.1"])
def test_another_sampler_is_refused_with_the_names_of_those_there_are(name: str) -> None:
    error = refusal(OTEL_TRACES_SAMPLER=name)

    assert f"cannot use OTEL_TRACES_SAMPLER='{name}'" == error.what
    assert 1 == len(error.remedy.splitlines())
    assert all(known in error.remedy for known in ("always_on, always_off, traceidratio", "parentbased_traceidratio"))


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("1", 1), ("0.25", 0.25), (".5", 0.5), ("1.0", 1), ("1e-3", 0.001), ("0.", 0)]
)
def test_a_share_is_a_number_from_0_to_1(text: str, expected: float) -> None:
    assert expected == settings(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=text).sampler_rate


@pytest.mark.parametrize("text", ["1.1", "-0.1", "10%", "nan", "inf", "1e3", ".", "0x1", "\u0660.5"])
def test_what_is_no_share_is_refused(text: str) -> None:
    assert "from 0 to 1" in refusal(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=text).remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, None)),
        ("0.2", (0.2, None)),
        ("rate=0.2", (0.2, None)),
        ("slowest=0", (None, 0)),
        ("slowest=0.05, rate = 1", (1, 0.05)),
    ],
)
def test_the_sampler_of_outcomes_takes_two_shares(text: str, expected: object) -> None:
    found = settings(OTEL_TRACES_SAMPLER="otel_ebpf_outcome", OTEL_TRACES_SAMPLER_ARG=text)
    assert expected == (found.sampler_rate, found.sampler_slowest)


@pytest.mark.parametrize("text", ["rate=", "rate=2", "rate=0.1,rate=0.2", "fastest=0.1", "0.1,slowest=0.2", "=0.1"])
def test_what_are_no_shares_is_refused(text: str) -> None:
    assert "rate=0.1,slowest=0.01" in refusal(OTEL_TRACES_SAMPLER_ARG=text).remedy


def test_an_argument_that_the_sampler_does_not_take_is_warned_about() -> None:
    assert ["OTEL_TRACES_SAMPLER_ARG has no effect: always_on takes none"] == warnings(
        OTEL_TRACES_SAMPLER="always_on", OTEL_TRACES_SAMPLER_ARG="0.5"
    )
    assert [] == warnings(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    assert [] == warnings(OTEL_TRACES_SAMPLER="otel_ebpf_outcome", OTEL_TRACES_SAMPLER_ARG="rate=0.5,slowest=0")
    assert ["slowest in OTEL_TRACES_SAMPLER_ARG has no effect: it is for otel_ebpf_outcome, not for traceidratio"] == (
        warnings(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="slowest=0.5")
    )


# --- Captured headers ---


def test_headers_are_named_in_any_case_and_once() -> None:
    found = settings(
        OTEL_EBPF_CAPTURE_REQUEST_HEADERS="Content-Type, x-request-id,content-type",
        OTEL_EBPF_CAPTURE_RESPONSE_HEADERS="Server",
        OTEL_EBPF_CAPTURE_SANITIZE_HEADERS="X-Customer,x-*-id",
    )

    assert ("content-type", "x-request-id") == found.request_headers
    assert (("server",), ("x-customer", "x-*-id")) == (found.response_headers, found.sanitized_headers)


@pytest.mark.parametrize("text", ["*", "x-*", "a b", "x:", ",".join(f"x-{number}" for number in range(65))])
def test_headers_are_captured_by_their_full_names_alone(text: str) -> None:
    """Semantic conventions: including all headers can be a security risk."""
    for name in ("OTEL_EBPF_CAPTURE_REQUEST_HEADERS", "OTEL_EBPF_CAPTURE_RESPONSE_HEADERS"):
        assert "at most 64 names" in refusal(**{name: text}).remedy


def test_what_is_no_glob_of_a_header_is_refused() -> None:
    assert "x-internal-*" in refusal(OTEL_EBPF_CAPTURE_SANITIZE_HEADERS="a b").remedy


def test_secret_keys_of_queries_are_named_as_they_stand_in_urls() -> None:
    found = settings(OTEL_EBPF_SENSITIVE_QUERY_PARAMS_ADD="customer, Invite%2DCode,customer")

    assert ("customer", "Invite%2DCode") == found.secret_query_keys
    assert "invite_code" in refusal(OTEL_EBPF_SENSITIVE_QUERY_PARAMS_ADD="a=b").remedy
