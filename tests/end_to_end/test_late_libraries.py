"""A process that is watched already loads its TLS library: what it does from then on is seen."""

import subprocess

from tests.end_to_end.stage import Stage
from tests.end_to_end.test_pages import health
from tests.end_to_end.truth import belongs_to
from tests.services.plan import make_call
from tests.services.processes import CHECKOUT, VENV_BIN, environment, free_port, wait_until

CLIENT = """
import socket, sys
print("ready", flush=True)
sys.stdin.readline()
import http.client, ssl
print("loaded", flush=True)
sys.stdin.readline()
context = ssl.create_default_context(cafile=sys.argv[2])
connection = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=context)
connection.request("GET", sys.argv[3])
connection.getresponse().read()
"""


def test_tls_that_is_loaded_later_is_read(prefix: str, stage: Stage) -> None:
    """As Python's `ssl` is, with the first import."""
    server, port = stage.server("aiohttp-tls"), free_port()
    call = make_call(f"{prefix}late", "GET", 200, 100)
    command = [str(VENV_BIN / "python"), "-c", CLIENT, str(server.port), server.authority, call.target]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=CHECKOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        stage.agent(OTEL_EBPF_TARGET_PID=process.pid, OTEL_EBPF_HEALTH_CHECK_PORT=f"127.0.0.1:{port}")
        assert "TLS" not in str(health(port, "/readyz")[1]["hooks"])
        process.stdin.write("load\n")
        process.stdin.flush()
        assert "loaded\n" == process.stdout.readline()
        wait_until(lambda: "TLS" in str(health(port, "/readyz")[1]["hooks"]), "the library has probes")
        process.communicate("go\n", timeout=30)

    (span,) = stage.sink.wait_for(1, belongs_to(prefix))
    assert ("https", 200, server.port) == (
        span.attributes["url.scheme"],
        span.attributes["http.response.status_code"],
        span.attributes["network.peer.port"],
    )
