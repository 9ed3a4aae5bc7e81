"""A chain of unmodified services without any header: each request is one whole trace, as Jaeger shows it."""

from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

from tests.end_to_end.backends import Jaeger, collector_and_jaeger, written_spans
from tests.end_to_end.sink import CLIENT, SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import target_of
from tests.services import nginx
from tests.services.calling import SERVICES
from tests.services.processes import VENV_BIN, free_port, wait_until
from tests.services.servers import Running, nginx_command, program, public_folder, serving, serving_elsewhere

REQUESTS, AT_ONCE = 200, 20
Shape = list[Any]  # a span's name, and the shape of each below it


def chained(stage: Stage, *urls: str) -> Running:
    port = free_port()
    command = [str(VENV_BIN / "python"), "-m", "tests.services.chained", str(port), *urls]
    return stage.ends.enter_context(serving_elsewhere(command, stage.new_folder("chained"), "127.0.0.1", port))


def get(front: Running, path: str) -> int:
    connection = HTTPConnection(front.host, front.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def nginx_before(stage: Stage, behind: Running) -> Running:
    port, folder = free_port(), stage.ends.enter_context(public_folder())
    locations = f"    location / {{ proxy_pass http://127.0.0.1:{behind.port}; }}"
    command = nginx_command(folder, nginx.configuration(folder, [f"127.0.0.1:{port}"], locations))
    return stage.ends.enter_context(serving_elsewhere(command, stage.new_folder("nginx"), "127.0.0.1", port))


def node_before(stage: Stage, *urls: str) -> Running:
    port, folder = free_port(), stage.new_folder("node")
    command = [program("node"), str(SERVICES / "chained_node.js"), str(port), *urls]
    return stage.ends.enter_context(serving_elsewhere(command, folder, "127.0.0.1", port))


def test_each_request_through_three_services_is_one_trace(prefix: str, stage: Stage) -> None:
    """The front calls the middle, which calls the back twice."""
    back = chained(stage)
    middle = chained(stage, *[f"http://127.0.0.1:{back.port}"] * 2)
    front = chained(stage, f"http://127.0.0.1:{middle.port}")
    calls = ["middle client", ["back server"]]

    shape = ["front server", ["front client", ["middle server", calls, calls]]]

    assert [shape] * REQUESTS == shapes(stage, prefix, shape, {"front": front, "middle": middle, "back": back})


def test_it_is_so_whatever_the_services_are_written_in(prefix: str, stage: Stage) -> None:
    """Node calls for the second time behind an `await`."""
    go = stage.ends.enter_context(serving("go", stage.new_folder("go")))
    node = node_before(stage, *[f"http://127.0.0.1:{go.port}"] * 2)
    python = chained(stage, f"http://127.0.0.1:{node.port}")
    chain = {"nginx": nginx_before(stage, python), "python": python, "node": node, "go": go}
    calls = ["node client", ["go server"]]
    shape = ["nginx server", ["nginx client", ["python server", ["python client", ["node server", calls, calls]]]]]

    assert [shape] * REQUESTS == shapes(stage, prefix, shape, chain, OTEL_EBPF_NODE_PARENTS="promises")


def size_of(shape: Shape) -> int:
    return 1 + sum(map(size_of, shape[1:]))


def shapes(stage: Stage, prefix: str, expected: Shape, chain: dict[str, Running], **settings: str) -> list[Shape]:
    """Of the traces of so many requests, twenty at once, as Jaeger shows them; who asks is not watched. `chain`: from its front on."""
    names, size = {server.port: name for name, server in chain.items()}, size_of(expected)
    front = next(iter(chain.values()))
    collector, output, backend = stage.ends.enter_context(collector_and_jaeger(stage.new_folder("jaeger")))
    stage.agent(sink=collector, OTEL_EBPF_OPEN_PORT=",".join(map(str, names)), **settings)

    paths = [f"/{prefix}{number:03}" for number in range(REQUESTS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # What has begun before a thread of Node is known goes on unknown behind an `await`.
        assert {200} == set(pool.map(lambda number: get(front, f"/early{number}"), range(2 * AT_ONCE)))
        assert {200} == set(pool.map(lambda path: get(front, path), paths))

    def spans() -> list[Span]:
        return [span for span in written_spans(output) if target_of(span).startswith(f"/{prefix}")]

    wait_until(lambda: len(spans()) >= size * REQUESTS, "all spans have passed the Collector")
    roots = {target_of(span): span.trace_id.hex() for span in spans() if not span.parent_span_id}
    assert sorted(paths) == sorted(roots)
    return [shape_of(trace_of(backend, roots[path], size), path, names) for path in paths]


def trace_of(backend: Jaeger, trace_id: str, size: int) -> list[Span]:
    found: list[Span] = []

    def is_whole() -> bool:
        found[:] = backend.otlp_spans(trace_id)
        return len(found) >= size

    wait_until(is_whole, f"trace {trace_id} in Jaeger")
    return found


def shape_of(spans: list[Span], path: str, names: dict[int, str]) -> Shape:
    """The one root with all under it, by name; each of them of the same request."""
    assert {path} == {target_of(span) for span in spans}
    (root,) = [span for span in spans if not span.parent_span_id]
    return below(root, spans, names)


def below(span: Span, spans: list[Span], names: dict[int, str]) -> Shape:
    children = sorted(
        (child for child in spans if child.parent_span_id == span.span_id), key=lambda child: child.start_unix_ns
    )
    ports, port = list(names), span.attributes["server.port"]
    assert span.kind in (SERVER, CLIENT)
    what = f"{names[port]} server" if span.kind == SERVER else f"{names[ports[ports.index(port) - 1]]} client"
    return [what, *[below(child, spans, names) for child in children]]
