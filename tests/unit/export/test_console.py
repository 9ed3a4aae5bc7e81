"""The trace printer."""

import io
import json

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Outcome, Unknown
from otel_ebpf.export.console import MAX_COUNTED_SERVICES, Console, escaped
from otel_ebpf.telemetry.attributes import with_secret_keys
from tests.unit.telemetry.examples import AF_INET6, AF_UNIX, client_exchange, exchange, lookup, span_of


def printed(form: str, *exchanges: Exchange, is_coloured: bool = False, service: str = "shop") -> list[str]:
    stream = io.StringIO()
    console = Console(form, stream, is_coloured)
    for one in exchanges:
        console.add(one, span_of(one), service)
    console.flush(10.0)
    return stream.getvalue().splitlines()


def test_text_is_a_line_a_request():
    """Time, service, direction, method, path, status, duration, peer."""
    (line,) = printed("text", exchange(end_ns=1_000 + 3_210_000))

    assert ["shop", "→", "GET", "/items/7", "200", "3.21", "ms", "10.0.0.9:40001"] == line.split()[1:]
    assert line[2] == line[5] == ":"


def test_text_columns_are_aligned():
    lines = printed("text", exchange(), exchange(method=b"DELETE", target=b"/"), client_exchange(status=404))

    assert 1 == len({line.index(arrow) for line, arrow in zip(lines, "→→←", strict=True)})
    assert 1 == len({line.index(status) for line, status in zip(lines, ["200", "200", "404"], strict=True)})


def test_text_shows_what_went_wrong():
    (line,) = printed("text", exchange(status=None, outcome=Outcome.RESET))

    assert " --- " in line
    assert line.endswith("  reset")


@pytest.mark.parametrize(
    ("family", "address", "shown"),
    [(AF_UNIX, bytes(16), "unix"), (AF_INET6, bytes(15) + b"\x01", "[::1]:40001"), (2, bytes(16), "")],
)
def test_text_shows_the_peer_of_any_family(family: int, address: bytes, shown: str):
    (line,) = printed("text", exchange(family=family, remote_address=address))

    assert line.split()[8:] == ([shown] if shown else [])


def test_colours_are_for_terminals():
    plain, coloured = (printed("text", exchange(status=500), is_coloured=flag)[0] for flag in (False, True))

    assert "\x1b" not in plain
    assert "\x1b[31m500\x1b[0m" in coloured


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "hostile",
    [
        b"\x1b]0;title\x07", b"\x1b[2J", b"a\r\nb", b"\x9b31m", b"\xc2\x9b31m",
        "\u202egpj.exe".encode(), b"\x7f\x00\x08",
    ],
)  # fmt: skip
def test_nothing_of_the_wire_reaches_the_terminal_as_a_command(form: str, hostile: bytes):
    """Control, format and direction characters are escaped, wherever they stand."""
    one = exchange(target=b"/" + hostile, method=hostile, host=hostile, user_agent=hostile, forwarded_for=hostile)

    (line,) = printed(form, one, service=hostile.decode("utf-8", "replace"))
    assert line.isprintable()


def test_bytes_that_are_not_utf8_stay_visible():
    assert "/a\\xffb\\xfe é" == escaped(b"/a" + b"\xffb\xfe " + "é".encode())


def test_text_cuts_a_long_path():
    (line,) = printed("text", exchange(target=b"/" + b"p" * 9000))

    assert 1024 < len(line) < 1200
    assert "…" in line


def test_json_holds_all_facts():
    facts = json.loads(printed("json", exchange(unknown=Unknown.RESPONSE_BODY | Unknown.RESPONSE_END))[0])
    span = span_of(exchange())

    assert {
        "time": "1970-01-01T00:00:00.001001+00:00",
        "service": "shop",
        "role": "server",
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": None,
        "method": "GET",
        "scheme": "http",
        "path": "/items/7",
        "query": "colour=red",
        "route": None,
        "host": "shop.example:8080",
        "version": "1.1",
        "status": 200,
        "error": False,
        "user_agent": "curl/8.5",
        "forwarded_for": None,
        "outcome": "complete",
        "unknown": ["response_end", "response_body"],
        "evidence": {},
        "request_start_unix_ns": 1_001_000,
        "request_end_unix_ns": 1_001_100,
        "response_start_unix_ns": 1_002_000,
        "response_end_unix_ns": 1_003_000,
        "end_unix_ns": 1_003_000,
        "duration_ns": 2_000,
        "request_bytes": 90,
        "response_bytes": 150,
        "request_body_bytes": 0,
        "response_body_bytes": 12,
        "local_address": "127.0.0.1",
        "local_port": 8080,
        "peer_address": "10.0.0.9",
        "peer_port": 40001,
        "network": "ipv4",
        "pid": 100,
        "tid": 101,
        "service_pid": 99,
        "connection": 7,
        "position": 2,
        "lookup": None,
    } == facts


def test_json_tells_what_was_looked_up():
    (line,) = printed("json", client_exchange(lookup=lookup(name=b"b\xfcro.example")))

    told = json.loads(line)["lookup"]
    assert ("b\\xfcro.example", 500) == (told["name"], told["duration_ns"])
    assert told["start_unix_ns"] < json.loads(line)["request_start_unix_ns"]


def test_json_keeps_secrets_to_itself():
    one = client_exchange(target=b"http://user:hunter2@h/x?token=hunter2")

    (line,) = printed("json", one)
    assert "hunter2" not in line
    assert ("h", "token=REDACTED") == (json.loads(line)["host"], json.loads(line)["query"])


def test_json_keeps_what_the_user_calls_a_secret():
    stream = io.StringIO()
    console = Console("json", stream)
    console.secret_keys = with_secret_keys(["customer"])
    one = exchange(target=b"/x?customer=ann&token=1&a=2")
    console.add(one, span_of(one), "shop")
    console.flush(0)

    assert "customer=REDACTED&token=REDACTED&a=2" == json.loads(stream.getvalue())["query"]


def test_text_keeps_secrets_to_itself():
    for target, method in ((b"http://user:hunter2@h/x?token=hunter2", b"GET"), (b"user:hunter2@h:443", b"CONNECT")):
        assert "hunter2" not in printed("text", client_exchange(target=target, method=method))[0]


def test_counter_is_a_line_a_second():
    stream = io.StringIO()
    console = Console("counter", stream, now_seconds=0.0)
    for now in (0.1, 0.5, 1.2, 1.3, 1.9):
        console.add(exchange(status=500), span_of(exchange(status=500)), "shop")
        console.flush(now)
    console.add(client_exchange(), span_of(client_exchange()), "cart")
    console.flush(2.3)
    console.flush(9.9)

    assert ["3 requests: shop → 3 ← 0 failed 3", "6 requests: cart → 0 ← 1, shop → 5 ← 0 failed 5"] == (
        stream.getvalue().splitlines()
    )


def test_counter_names_so_many_services_and_no_more():
    """Each process may call itself as it likes: the line and what it is made of have an end."""
    stream = io.StringIO()
    console = Console("counter", stream)
    for number in range(MAX_COUNTED_SERVICES + 9):
        console.add(exchange(), span_of(exchange()), f"{number:04}")
    console.flush(0.1, is_last=True)

    (line,) = stream.getvalue().splitlines()
    assert line.startswith(f"{MAX_COUNTED_SERVICES + 9} requests: 0000 → 1 ← 0, ")
    assert line.endswith(", others → 9 ← 0")
    assert MAX_COUNTED_SERVICES + 1 == line.count("→")


def test_counter_tells_the_rest_at_the_end():
    stream = io.StringIO()
    console = Console("counter", stream, now_seconds=0.0)
    console.add(exchange(), span_of(exchange()), "shop")
    console.flush(0.1, is_last=True)

    assert "1 requests: shop → 1 ← 0\n" == stream.getvalue()


class Counting(io.StringIO):
    writes = 0

    def write(self, text: str, /) -> int:
        self.writes += 1
        return super().write(text)


def test_lines_of_a_tick_are_one_write():
    stream = Counting()
    console = Console("text", stream)
    for _ in range(50):
        console.add(exchange(), span_of(exchange()), "shop")
    assert 0 == stream.writes
    console.flush(1.0)
    console.flush(2.0)

    assert (1, 50) == (stream.writes, stream.getvalue().count("\n"))


class Broken(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError


def test_reader_that_has_gone_ends_the_printing():
    """`otel-ebpf run | head` must neither fail nor fill memory."""
    console = Console("text", Broken())
    console.add(exchange(), span_of(exchange()), "shop")
    console.flush(1.0)
    assert not console.is_open
    console.add(exchange(), span_of(exchange()), "shop")
    console.flush(2.0)
    assert [] == console._lines


def test_terminal_that_is_not_utf8_gets_escapes():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    console = Console("text", stream)
    console.add(exchange(), span_of(exchange()), "shop")
    console.flush(1.0)

    assert b"\\u2192" in raw.getvalue()
    assert console.is_open
