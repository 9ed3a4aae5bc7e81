"""nginx behind a proxy that says whose connections it passes on, by either version of the PROXY protocol."""

import http.client
import socket
import ssl
from contextlib import closing

import pytest

from tests.end_to_end.sink import SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, target_of
from tests.services import nginx
from tests.services.certificates import session_certificates
from tests.services.plan import make_call
from tests.services.processes import free_port
from tests.services.proxy_headers import VERSION_1, version_2
from tests.services.servers import nginx_command, public_folder, serving_elsewhere

HEADERS = {"1": VERSION_1, "2": version_2()}


@pytest.mark.parametrize("version", HEADERS)
@pytest.mark.parametrize("speaks_tls", [False, True], ids=["plain", "tls"])
def test_what_comes_behind_the_header_is_seen(version: str, speaks_tls: bool, prefix: str, stage: Stage) -> None:
    port, made = free_port(), session_certificates()
    public = stage.ends.enter_context(public_folder())
    listen, certificates = [f"127.0.0.1:{port} proxy_protocol"], made if speaks_tls else None
    text = nginx.configuration(public, listen, nginx.answers(), certificates=certificates)
    stage.ends.enter_context(serving_elsewhere(nginx_command(public, text), stage.new_folder("s"), "127.0.0.1", port))
    stage.agent(OTEL_EBPF_OPEN_PORT=port)

    targets = [make_call(f"{prefix}{number}", "GET", 200, 1000).target for number in range(6)]
    own_ports = {}
    for first in range(0, len(targets), 2):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
            connection.sock.sendall(HEADERS[version])
            if speaks_tls:
                context = ssl.create_default_context(cafile=made.authority)
                connection.sock = context.wrap_socket(connection.sock, server_hostname="127.0.0.1")
            for target in targets[first : first + 2]:
                connection.request("GET", target)
                assert 1000 == len(connection.getresponse().read())
                own_ports[target] = connection.sock.getsockname()[1]

    spans = stage.sink.wait_for(len(targets), belongs_to(prefix, SERVER))
    assert sorted(targets) == sorted(map(target_of, spans))
    assert own_ports == {target_of(span): span.attributes["network.peer.port"] for span in spans}
    wanted = ("https" if speaks_tls else "http", 200, 1000)
    names = ("url.scheme", "http.response.status_code", "http.response.body.size")
    assert [wanted] * len(targets) == [tuple(span.attributes[name] for name in names) for span in spans]
