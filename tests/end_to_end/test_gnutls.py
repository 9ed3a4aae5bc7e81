"""A client whose TLS is GnuTLS: N calls are N CLIENT spans, each equal to what the client itself says."""

import pytest

from tests.end_to_end.sink import CLIENT
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences
from tests.services.plan import all_calls


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_every_call_by_gnutls_is_one_right_span(version: str, keep_alive: bool, prefix: str, stage: Stage) -> None:
    """libcurl gives GnuTLS functions of its own to move the bytes: the ClientHello alone tells the socket."""
    server = stage.server("aiohttp-tls")
    calling = stage.client("pycurl", server, all_calls(prefix), keep_alive=keep_alive, tls_version=version)
    stage.agent(OTEL_EBPF_TARGET_PID=calling.pid)

    results = calling.send()

    spans = stage.sink.wait_for(len(results), belongs_to(prefix))
    assert [] == differences(results, spans, CLIENT)
    assert len(results) == len(spans)
    assert {(server.host, server.port)} == {
        (span.attributes["network.peer.address"], span.attributes["network.peer.port"]) for span in spans
    }
