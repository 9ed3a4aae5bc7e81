"""Runs a service whose requests cause others, and asks it for many at once. See calling_app.py.

In:   its style
Out:  the running service; which requests it had
Owns: the processes, as long as the context lasts
"""

import http.client
import random
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from tests.services.calling_app import CALLS
from tests.services.certificates import session_certificates
from tests.services.processes import CHECKOUT, VENV_BIN, environment, free_port, running

PYTHON = str(VENV_BIN / "python")
SERVICES = CHECKOUT / "tests" / "services"
_IN_TASKS = ("sequence", "gather", "nested", "thread", "executor", "background")
_UVICORN = [PYTHON, "-m", "uvicorn", "calling_app:asgi", "--log-level", "warning", "--port", "{port}", "--loop"]
_UVICORN_TLS = ["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}"]
_GUNICORN_TLS = ["--certfile", "{certificate}", "--keyfile", "{key}"]
_GUNICORN = [PYTHON, "-m", "gunicorn", "calling_app:wsgi", "--log-level", "warning", "-b", "127.0.0.1:{port}"]


@dataclass(frozen=True)
class Style:
    command: list[str]
    kinds: tuple[str, ...] = ("plain",)
    loop: str = ""
    speaks_tls: bool = False  # at both sides


STYLES = {
    "http.server": Style([PYTHON, str(SERVICES / "calling_app.py"), "http.server", "{port}"]),
    "gunicorn-sync": Style([*_GUNICORN, "-w", "4"]),
    "gunicorn-gthread": Style([*_GUNICORN, "-k", "gthread", "--threads", "40"]),
    "gunicorn-gevent": Style([*_GUNICORN, "-k", "gevent"]),
    "uvicorn": Style([*_UVICORN, "asyncio"], _IN_TASKS),
    "uvicorn-uvloop": Style([*_UVICORN, "uvloop"], _IN_TASKS),
    "aiohttp": Style([PYTHON, str(SERVICES / "calling_app.py"), "aiohttp", "{port}"], _IN_TASKS),
    "aiohttp-uvloop": Style([PYTHON, str(SERVICES / "calling_app.py"), "aiohttp", "{port}"], _IN_TASKS, "uvloop"),
    "uvicorn-tls": Style([*_UVICORN, "asyncio", *_UVICORN_TLS], _IN_TASKS, speaks_tls=True),
    "uvicorn-uvloop-tls": Style([*_UVICORN, "uvloop", *_UVICORN_TLS], _IN_TASKS, speaks_tls=True),
    "gunicorn-gthread-tls": Style(
        [*_GUNICORN, "-k", "gthread", "--threads", "40", *_GUNICORN_TLS],
        speaks_tls=True,
    ),
}


@dataclass
class CallingService:
    process: Popen[bytes]
    port: int
    kinds: tuple[str, ...]
    speaks_tls: bool = False

    def ask(self, prefix: str, count: int, at_once: int) -> dict[str, str]:
        """So many requests of each kind. What each of the calls is that they cause: its path, and the request's."""
        waiting = [f"{kind}/{prefix}{number}" for kind in self.kinds for number in range(count)]
        random.shuffle(waiting)
        asked, errors = list(waiting), list[BaseException]()

        def work() -> None:
            connection = self._connection()
            try:
                while waiting:
                    connection.request("GET", f"/in/{waiting.pop()}")
                    answer = connection.getresponse()
                    answer.read()
                    assert 200 == answer.status
                    if random.random() < 0.1:
                        connection.close()
            except IndexError:
                pass  # another one took the last
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=work) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return {
            f"/out/{name}/{number}": f"/in/{name}" for name in asked for number in range(CALLS[name.partition("/")[0]])
        }

    def _connection(self) -> http.client.HTTPConnection:
        if not self.speaks_tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        context = ssl.create_default_context(cafile=session_certificates().authority)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)


@contextmanager
def calling_service(style_name: str, folder: Path) -> Iterator[CallingService]:
    style, port, called_port = STYLES[style_name], free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    files = {"certificate": "", "key": ""}
    if style.speaks_tls:
        files = {"certificate": session_certificates().certificate, "key": session_certificates().key}
    with ExitStack() as ends:
        for name, command, where in (
            ("called", [sys.executable, str(SERVICES / "calling_app.py"), "called", "{port}"], called_port),
            ("calling", style.command, port),
        ):
            made = [part.format(port=where, **files) for part in command]
            env = environment(
                CALLS_TO=str(called_port),
                LOOP=style.loop,
                PYTHONPATH=f"{SERVICES}:{CHECKOUT}",
                CERTIFICATE=files["certificate"],
                KEY=files["key"],
            )
            process = ends.enter_context(running(made, ("127.0.0.1", where), log=folder / name, env=env))
        yield CallingService(process, port, style.kinds, style.speaks_tls)
