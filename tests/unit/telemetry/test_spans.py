"""Exchanges to spans, by the stable HTTP conventions."""

from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.exchange import Outcome, Role, Unknown
from otel_ebpf.telemetry.spans import CACHE_LIMIT, MOST_ATTRIBUTES, SpanBuilder
from otel_ebpf.telemetry.trace_context import IdSource
from tests.unit.telemetry.examples import AF_INET6, AF_UNIX, attributes_of, build, client_exchange, exchange, span_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01".encode()


def test_server_span_has_the_attributes_of_its_request():
    """HTTP server span: required and recommended attributes, and the sizes."""
    assert {
        "http.request.method": b"GET",
        "url.scheme": b"http",
        "server.address": b"shop.example",
        "server.port": 8080,
        "http.response.status_code": 200,
        "network.protocol.version": b"1.1",
        "url.path": b"/items/7",
        "url.query": b"colour=red",
        "client.address": b"10.0.0.9",
        "user_agent.original": b"curl/8.5",
        "network.peer.address": b"10.0.0.9",
        "network.peer.port": 40001,
        "http.request.body.size": 0,
        "http.response.body.size": 12,
    } == attributes_of(exchange())


def test_client_span_has_the_attributes_of_its_request():
    """HTTP client span: url.full instead of path and query; no client.address, no user agent."""
    assert {
        "http.request.method": b"GET",
        "url.scheme": b"http",
        "server.address": b"shop.example",
        "server.port": 8080,
        "http.response.status_code": 200,
        "network.protocol.version": b"1.1",
        "url.full": b"http://shop.example:8080/items/7?colour=red",
        "network.peer.address": b"10.0.0.9",
        "network.peer.port": 8080,
        "http.request.body.size": 0,
        "http.response.body.size": 12,
    } == attributes_of(client_exchange())


def test_span_without_a_route_is_named_by_its_method_alone():
    """HTTP conventions, Name: never the path; the kind is the role."""
    series = span_of(exchange()).series
    assert (b"GET", 2) == (series.name, series.kind)
    assert 3 == span_of(client_exchange()).series.kind


def test_span_with_a_route_is_named_by_method_and_route():
    """`{method} {http.route}`; an unknown method is HTTP there too."""
    builder = SpanBuilder()
    plain, other = (build(builder, exchange(method=method), b"/items/{id}").series for method in (b"GET", b"PURGE"))
    assert (b"GET /items/{id}", b"HTTP /items/{id}") == (plain.name, other.name)
    assert b"/items/{id}" == dict(plain.attributes)["http.route"]


def test_unknown_method_is_other():
    """http.request.method `_OTHER`, the original beside it, `HTTP` as the name; case matters."""
    for method in (b"PURGE", b"get"):
        found = attributes_of(exchange(method=method))
        assert (b"_OTHER", method) == (found["http.request.method"], found["http.request.method_original"])
        assert b"HTTP" == span_of(exchange(method=method)).series.name


def test_known_methods_can_be_replaced():
    """OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS is a full override."""
    known = frozenset((b"PURGE",))
    assert b"PURGE" == attributes_of(exchange(method=b"PURGE"), known_methods=known)["http.request.method"]
    assert b"_OTHER" == attributes_of(exchange(), known_methods=known)["http.request.method"]


def test_times_are_those_of_the_exchange_on_the_wall_clock():
    span = span_of(exchange(request_start_ns=1_000, end_ns=5_000))
    assert (1_001_000, 1_005_000) == (span.start_unix_ns, span.end_unix_ns)


def test_span_whose_end_nobody_saw_ends_with_its_last_byte():
    """Never the time at which the agent gave up waiting."""
    unseen = exchange(outcome=Outcome.UNKNOWN, response_end_ns=4_000, end_ns=9_000_000_000)
    assert 1_004_000 == span_of(unseen).end_unix_ns


def test_span_never_ends_before_it_begins():
    span = span_of(exchange(request_start_ns=5_000, end_ns=1_000))
    assert span.start_unix_ns == span.end_unix_ns


def test_what_is_not_known_is_absent():
    bare = exchange(
        host=None, user_agent=None, status=None, request_body_bytes=None, response_body_bytes=None,
        response_start_ns=None, response_end_ns=None, outcome=Outcome.UNKNOWN, remote_address=bytes(16),
        target=b"/", unknown=Unknown.REQUEST_HEAD_CUT,
    )  # fmt: skip
    assert {
        "http.request.method": b"GET",
        "url.scheme": b"http",
        "network.protocol.version": b"1.1",
        "url.path": b"/",
    } == attributes_of(bare)
    assert not span_of(bare).series.is_error


def test_errors_mark_the_span():
    assert not span_of(exchange(status=404)).series.is_error
    assert span_of(client_exchange(status=404)).series.is_error
    assert span_of(exchange(status=500)).series.is_error
    assert b"500" == attributes_of(exchange(status=500))["error.type"]
    assert b"reset" == attributes_of(exchange(status=None, outcome=Outcome.RESET))["error.type"]


def test_client_without_host_names_its_peer():
    """server.address is required of a client: the address it connected to."""
    found = attributes_of(client_exchange(host=None, version=b"1.0"))
    assert (b"10.0.0.9", 8080) == (found["server.address"], found["server.port"])
    assert b"http://10.0.0.9:8080/items/7?colour=red" == found["url.full"]


def test_client_without_host_over_ipv6_brackets_its_peer():
    """RFC 3986 3.2.2."""
    peer = bytes.fromhex("20010db8000000000000000000000001")
    found = attributes_of(client_exchange(host=None, family=AF_INET6, remote_address=peer))
    assert (b"2001:db8::1", 8080) == (found["server.address"], found["server.port"])
    assert found["url.full"].startswith(b"http://[2001:db8::1]:8080/")


def test_absolute_target_goes_before_the_host_header():
    """RFC 9112 3.2.2, and server.address in the conventions."""
    proxied = client_exchange(target=b"http://user:pw@other.example:81/a?token=x", host=b"ignored")
    found = attributes_of(proxied)
    assert (b"other.example", 81) == (found["server.address"], found["server.port"])
    assert b"http://REDACTED:REDACTED@other.example:81/a?token=REDACTED" == found["url.full"]
    assert b"/a" == attributes_of(exchange(target=proxied.target))["url.path"]


def test_authority_target_has_no_path():
    """RFC 9112 3.3: the target URI of CONNECT is its authority."""
    connect = {"method": b"CONNECT", "target": b"far.example:443", "host": b"far.example:443"}
    assert "url.path" not in attributes_of(exchange(**connect))
    assert b"http://far.example:443" == attributes_of(client_exchange(**connect))["url.full"]


def test_asterisk_target_is_a_path_of_its_own():
    """RFC 9112 3.3: the target URI of `OPTIONS *` has no path; url.path is required and says what was sent."""
    options = {"method": b"OPTIONS", "target": b"*"}
    assert b"*" == attributes_of(exchange(**options))["url.path"]
    assert b"http://shop.example:8080" == attributes_of(client_exchange(**options))["url.full"]


def test_unix_socket_has_a_transport_and_no_addresses():
    found = attributes_of(exchange(family=AF_UNIX, remote_address=bytes(16), remote_port=0))
    assert b"unix" == found["network.transport"]
    assert {"network.peer.address", "network.peer.port", "client.address"}.isdisjoint(found)


def test_forwarded_address_is_the_client():
    """client.address is the origin; network.peer.address stays the connection's."""
    found = attributes_of(exchange(forwarded_for=b"203.0.113.7, 10.0.0.9"))
    assert (b"203.0.113.7", b"10.0.0.9") == (found["client.address"], found["network.peer.address"])


def test_secrets_in_the_query_do_not_leave():
    assert b"a=1&token=REDACTED" == attributes_of(exchange(target=b"/x?a=1&token=hunter2"))["url.query"]


def test_bad_host_header_names_no_server():
    """Not guessed: a Host that is no authority gives no server.address."""
    assert "server.address" not in attributes_of(exchange(host=b"a b:c:d"))


def test_server_span_continues_the_trace_of_its_header():
    """Trace Context, and Span.flags of OTLP: has-is-remote and is-remote."""
    span = span_of(exchange(traceparent=TRACEPARENT, tracestate=b"a=1"))
    assert (TRACE, PARENT, b"a=1") == (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state)
    assert 0x301 == span.flags


def test_client_span_is_the_child_of_the_applications_own():
    """The header names the span that the application made for this call: ours must not claim its id."""
    span = span_of(client_exchange(traceparent=TRACEPARENT))
    assert (TRACE, PARENT) == (span.trace_id.hex(), span.parent_span_id.hex())
    assert PARENT != span.span_id.hex()
    assert 0x101 == span.flags


def test_request_without_a_context_begins_a_trace():
    """A bad traceparent counts as none, and its tracestate with it (Trace Context 3.2.3)."""
    for header in (None, b"junk"):
        span = span_of(exchange(traceparent=header, tracestate=b"a=1"))
        assert (b"", b"", 0x103) == (span.parent_span_id, span.trace_state, span.flags)
        assert IdSource(b"seed").ids(7, 2) == (span.trace_id, span.span_id)


def test_bad_tracestate_is_dropped_and_the_trace_kept():
    span = span_of(exchange(traceparent=TRACEPARENT, tracestate=b"=,=" * 300))
    assert (TRACE, b"") == (span.trace_id.hex(), span.trace_state)


def test_long_path_is_cut():
    found = attributes_of(exchange(target=b"/" + b"p" * 20_000))
    assert b"/" + b"p" * 8191 == found["url.path"]


def test_value_limit_counts_characters():
    """OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT, on all text and on nothing else."""
    found = attributes_of(exchange(target="/éé".encode(), status=404), value_length_limit=2)
    assert ("/é".encode(), b"GE", 404) == (
        found["url.path"], found["http.request.method"], found["http.response.status_code"],
    )  # fmt: skip


def test_count_limit_drops_and_counts():
    """OTEL_ATTRIBUTE_COUNT_LIMIT; Span.dropped_attributes_count."""
    whole = span_of(exchange())
    total = len(whole.all_attributes)
    for limit in (0, 3, 8, total - 1, total):
        span = span_of(exchange(), count_limit=limit)
        assert limit == len(span.all_attributes)
        assert total - limit == span.dropped_attributes_count


def test_no_span_has_more_attributes_than_the_limit_check_assumes():
    busiest = exchange(
        method=b"PURGE", status=500, family=AF_INET6, remote_address=bytes(15) + b"\x01", forwarded_for=b"1.2.3.4"
    )
    assert len(attributes_of(busiest)) < MOST_ATTRIBUTES, "http.route may be one more"


def test_equal_spans_share_a_series():
    """So that the encoder's template is made once."""
    builder = SpanBuilder()
    first, second = (build(builder, exchange(position=number, target=b"/%d" % number)) for number in range(2))
    other = build(builder, exchange(status=404))
    assert first.series is second.series is not other.series


def test_caches_are_bounded():
    """Hosts and methods are the sender's choice."""
    builder = SpanBuilder()
    for number in range(CACHE_LIMIT + 10):
        build(builder, exchange(host=b"h%d" % number, remote_address=number.to_bytes(16, "big")))
    assert max(len(builder._series), len(builder._peers)) <= CACHE_LIMIT


@given(
    method=st.binary(max_size=20), target=st.binary(max_size=60), version=st.binary(max_size=4),
    host=st.none() | st.binary(max_size=40), user_agent=st.none() | st.binary(max_size=40),
    forwarded_for=st.none() | st.binary(max_size=40), traceparent=st.none() | st.binary(max_size=60),
    tracestate=st.none() | st.binary(max_size=60), status=st.none() | st.integers(0, 999),
    role=st.sampled_from(Role), outcome=st.sampled_from(Outcome), family=st.sampled_from([1, 2, 10]),
    remote_address=st.binary(min_size=16, max_size=16), request_start_ns=st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_any_bytes_of_the_wire_give_a_valid_span(**parts):  # type: ignore[no-untyped-def]
    """All text is UTF-8, all times fit, nothing raises."""
    span = span_of(exchange(**parts))

    for _, value in span.all_attributes:
        assert isinstance(value, int) or value.decode("utf-8") is not None
    assert 0 <= span.start_unix_ns <= span.end_unix_ns < 2**64


def test_hosts_of_any_length_are_not_kept():
    """What is remembered of hosts is bounded in bytes, not only in number."""
    builder = SpanBuilder()

    for number in range(50):
        build(builder, exchange(host=b"%d." % number + b"h" * 8000))

    assert 0 == len(builder._series)
