"""The ground truth, without any agent: every client and every server do what the plan says.

When these fail, no other test of this folder means anything.
"""

from pathlib import Path

import pytest

from tests.services.callers import PLAIN_CALLERS, TLS_CALLERS, send_all, unlike_plan
from tests.services.plan import all_calls
from tests.services.servers import SERVERS, calls_for, serving


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_every_server_answers_as_the_plan_says(server: str, keep_alive: bool, prefix: str, tmp_path: Path) -> None:
    calls = calls_for(server, prefix)

    with serving(server, tmp_path / "server") as where:
        results = send_all("http.client", tmp_path / "client", where, calls, keep_alive=keep_alive)

    assert [] == unlike_plan(calls, results)


@pytest.mark.parametrize(
    ("client", "server"), [*((name, "go") for name in PLAIN_CALLERS), *((name, "aiohttp-tls") for name in TLS_CALLERS)]
)
@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_every_client_sends_what_the_plan_says(
    client: str, server: str, keep_alive: bool, prefix: str, tmp_path: Path
) -> None:
    calls = all_calls(prefix)

    with serving(server, tmp_path / "server") as where:
        results = send_all(client, tmp_path / "client", where, calls, keep_alive=keep_alive)

    assert [] == unlike_plan(calls, results)
