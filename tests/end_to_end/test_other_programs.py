"""What a service starts: programs that serve its connections are part of it; of others nothing is seen by half."""

import http.client
from contextlib import closing

import pytest

from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, target_of
from tests.services.c_programs import build_c
from tests.services.plan import make_call
from tests.services.processes import VENV_BIN, free_port
from tests.services.servers import SERVICES, Running, program, serving_elsewhere

COUNT = 30
BODY_BYTES = 50_000


def start(stage: Stage, way: str, *command: str) -> Running:
    port = free_port()
    starting = [str(VENV_BIN / "python"), "-m", "tests.services.starting", str(port), way, *command]
    return stage.ends.enter_context(serving_elsewhere(starting, stage.new_folder(way), "127.0.0.1", port))


def ask(server: Running, target: str) -> bytes:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        connection.request("GET", target)
        return connection.getresponse().read()


def test_a_program_that_is_started_for_a_connection_is_part_of_the_service(prefix: str, stage: Stage) -> None:
    """It lives for a millisecond, and is another program than the one that has accepted."""
    server = start(stage, "with-it", str(build_c(SERVICES / "answer_one.c")), str(BODY_BYTES))
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    targets = [f"/{prefix}{number}" for number in range(COUNT)]
    for target in targets:
        assert BODY_BYTES == len(ask(server, target))

    spans = stage.sink.wait_for(COUNT, belongs_to(prefix))
    assert sorted(targets) == sorted(target_of(span) for span in spans)
    seen = {
        (span.attributes["http.response.status_code"], span.attributes["http.response.body.size"]) for span in spans
    }
    assert {(200, BODY_BYTES)} == seen
    assert 1 == len({span.resource["service.instance.id"] for span in spans})


@pytest.mark.parametrize("name", ["go", "go-tls"])
def test_what_another_program_calls_is_seen_whole_or_not_at_all(name: str, prefix: str, stage: Stage) -> None:
    """It is none of the service, which is known some milliseconds after it has begun."""
    called = stage.server(name)
    url = f"{called.scheme}://localhost:{called.port}{make_call(f'{prefix}called', 'GET', 200, BODY_BYTES).target}"
    options = ["--cacert", called.authority] if called.authority else []
    server = start(stage, "beside-it", program("curl"), "--silent", "--fail", *options, url)
    stage.agent(OTEL_EBPF_OPEN_PORT=server.port)

    for number in range(COUNT):
        assert b"ok" == ask(server, f"/{prefix}{number}")

    spans = stage.sink.wait_for(COUNT, belongs_to(prefix, SERVER))
    assert COUNT == len(spans)
    calls = [span for span in stage.sink.spans if belongs_to(prefix, CLIENT)(span)]
    assert len(calls) <= COUNT
    names = ("http.response.status_code", "http.response.body.size", "error.type")
    whole = (200, BODY_BYTES, None)
    assert [whole] * len(calls) == [tuple(span.attributes.get(name) for name in names) for span in calls]
