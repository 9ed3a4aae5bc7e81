"""Each outgoing call of a real service is the child of the request that caused it, by the ids in both paths."""

import os
import re
from pathlib import Path

import pytest

from tests.end_to_end.parentage import Verdict, asked_and_judged
from tests.end_to_end.stage import Stage
from tests.services.calling import all_styles, calling_service
from tests.services.processes import VENV_BIN

pytestmark = pytest.mark.end_to_end

REQUESTS = int(os.environ.get("OTEL_EBPF_TEST_REQUESTS", "120"))  # of all kinds of a style
AT_ONCE = 40
# Each way to run Python's code, each client; `python -m tests.bench.right_parents` has all of them with each other.
STYLES = [
    "http.server",
    "gunicorn-gthread-tls",
    "gunicorn-gevent",
    "gevent.pywsgi+urllib3-tls",
    "flask+httpx",
    "uvicorn",
    "uvicorn-uvloop-tls",
    "starlette-uvloop+aiohttp",
    "fastapi",
    "hypercorn-uvloop-tls",
    "hypercorn-trio-tls",
    "aiohttp-uvloop",
    "streams-tls",
]


def other_interpreters() -> list[str]:
    """The oldest and the newest that are here beside the distribution's; that one where there is no other."""
    found = {}
    for python in Path.home().glob(".pyenv/versions/3.*/bin/python3"):
        minor = int(re.findall(r"\d+", python.parent.parent.name)[1])
        if 8 <= minor <= 13:
            found[minor] = str(python)
    return sorted({found[min(found)], found[max(found)]}) if found else [str(VENV_BIN / "python")]


@pytest.mark.parametrize("style", STYLES)
def test_every_call_is_the_child_of_the_request_that_caused_it(style: str, prefix: str, stage: Stage) -> None:
    """Many at once, with pauses of random lengths, on connections that stay open; and calls that nobody caused."""
    verdict = verdict_on(style, prefix, stage)

    assert verdict.is_all_right, verdict


@pytest.mark.parametrize("style", ["http.server+http.client", "streams"])
@pytest.mark.parametrize("python", other_interpreters(), ids=lambda path: Path(path).parent.parent.name)
def test_it_is_so_under_other_versions_of_python(style: str, python: str, prefix: str, stage: Stage) -> None:
    """By what Python itself brings."""
    verdict = verdict_on(style, prefix, stage, python)

    assert verdict.is_all_right, verdict


def test_every_style_has_a_name_that_is_understood() -> None:
    assert [] == [style for style in STYLES if style not in all_styles()]


def verdict_on(style: str, prefix: str, stage: Stage, python: str = str(VENV_BIN / "python")) -> Verdict:
    service = stage.ends.enter_context(calling_service(style, stage.new_folder(style), python))
    stage.agent(OTEL_EBPF_OPEN_PORT=service.port)
    return asked_and_judged(service, stage.sink, prefix, -(-REQUESTS // len(service.kinds)), AT_ONCE)
