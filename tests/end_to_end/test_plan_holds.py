"""The ground truth, without any agent: every client and every server do what the plan says.

When these fail, no other test of this folder means anything.
"""

from pathlib import Path

import pytest

from tests.services.callers import PLAIN_CALLERS, TLS_CALLERS, send_all, unlike_plan
from tests.services.plan import all_calls
from tests.services.servers import PLAIN_SERVERS, SERVERS, calls_for, serving

# Over TLS once each: what watches them compares with the plan itself.
OF_SERVERS = [*((name, True) for name in SERVERS), *((name, False) for name in PLAIN_SERVERS)]
OF_CLIENTS = [
    *((name, "go", keep_alive) for name in PLAIN_CALLERS for keep_alive in (True, False)),
    *((name, "aiohttp-tls", True) for name in TLS_CALLERS),
]


@pytest.mark.parametrize(("server", "keep_alive"), OF_SERVERS)
def test_every_server_answers_as_the_plan_says(server: str, keep_alive: bool, prefix: str, tmp_path: Path) -> None:
    calls = calls_for(server, prefix)

    with serving(server, tmp_path / "server") as where:
        results = send_all("http.client", tmp_path / "client", where, calls, keep_alive=keep_alive)

    assert [] == unlike_plan(calls, results)


@pytest.mark.parametrize(("client", "server", "keep_alive"), OF_CLIENTS)
def test_every_client_sends_what_the_plan_says(
    client: str, server: str, keep_alive: bool, prefix: str, tmp_path: Path
) -> None:
    calls = all_calls(prefix)

    with serving(server, tmp_path / "server") as where:
        results = send_all(client, tmp_path / "client", where, calls, keep_alive=keep_alive)

    assert [] == unlike_plan(calls, results)
