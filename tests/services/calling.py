"""Runs a service whose requests cause others, and asks it for many at once. See calling_app.py.

In:   its style
Out:  the running service; which requests it had
Owns: the processes, as long as the context lasts
"""

import http.client
import random
import re
import ssl
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from tests.services.calling_app import CALLS
from tests.services.certificates import session_certificates
from tests.services.processes import CHECKOUT, VENV_BIN, environment, free_port, running

SERVICES = CHECKOUT / "tests" / "services"
_IN_TASKS = ("sequence", "gather", "nested", "thread", "executor", "background")
_IN_TRIO = ("sequence", "gather", "thread", "background")
_IN_FRAMEWORKS = (*_IN_TASKS, "sync", "late-sync", "late-task")
_ASKED_IN_TASKS, _ASKED_IN_THREADS = ("httpx", "aiohttp", "streams"), ("requests", "urllib3", "httpx")
_APP = str(SERVICES / "calling_app.py")


@dataclass(frozen=True)
class Style:
    """Arguments of its interpreter; those that it needs for TLS, where its environment does not say it."""

    arguments: list[str]
    kinds: tuple[str, ...] = ("plain",)
    clients: tuple[str, ...] = _ASKED_IN_THREADS
    loop: str = ""
    tls: tuple[str, ...] = ()


def _by_uvicorn(loop: str, app: str = "calling_app:asgi", kinds: tuple[str, ...] = _IN_TASKS) -> Style:
    options = ["--log-level", "warning", "--port", "{port}", "--loop", loop]
    tls = ("--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}")
    return Style(["-m", "uvicorn", app, *options], kinds, _ASKED_IN_TASKS, tls=tls)


def _by_hypercorn(worker: str, app: str, kinds: tuple[str, ...], clients: tuple[str, ...]) -> Style:
    tls = ("--certfile", "{certificate}", "--keyfile", "{key}")
    return Style(["-m", "hypercorn", app, "-b", "127.0.0.1:{port}", "-k", worker], kinds, clients, tls=tls)


def _by_gunicorn(*worker: str) -> Style:
    options = ["--log-level", "warning", "-b", "127.0.0.1:{port}"]
    tls = ("--certfile", "{certificate}", "--keyfile", "{key}")
    return Style(["-m", "gunicorn", "calling_app:wsgi", *options, *worker], tls=tls)


# Each speaks TLS at both sides with "-tls" behind its name, and asks by another client than its first with "+urllib3".
STYLES = {
    "http.server": Style([_APP, "http.server", "{port}"]),
    "gunicorn-sync": _by_gunicorn("-w", "4"),
    "gunicorn-gthread": _by_gunicorn("-k", "gthread", "--threads", "40"),
    "gunicorn-gevent": _by_gunicorn("-k", "gevent"),
    "gevent.pywsgi": Style([str(SERVICES / "calling_gevent.py"), "{port}"]),
    "flask": Style([str(SERVICES / "calling_flask.py"), "{port}"]),
    "uvicorn": _by_uvicorn("asyncio"),
    "uvicorn-uvloop": _by_uvicorn("uvloop"),
    "starlette": _by_uvicorn("asyncio", "calling_starlette:app", _IN_FRAMEWORKS),
    "starlette-uvloop": _by_uvicorn("uvloop", "calling_starlette:app", _IN_FRAMEWORKS),
    "fastapi": _by_uvicorn("asyncio", "calling_fastapi:app", _IN_FRAMEWORKS),
    "fastapi-uvloop": _by_uvicorn("uvloop", "calling_fastapi:app", _IN_FRAMEWORKS),
    "hypercorn": _by_hypercorn("asyncio", "calling_app:asgi", _IN_TASKS, _ASKED_IN_TASKS),
    "hypercorn-uvloop": _by_hypercorn("uvloop", "calling_app:asgi", _IN_TASKS, _ASKED_IN_TASKS),
    "hypercorn-trio": _by_hypercorn("trio", "calling_trio:asgi", _IN_TRIO, ("httpx",)),
    "trio": Style([str(SERVICES / "calling_trio.py"), "{port}"], _IN_TRIO, ("httpx",)),
    "aiohttp": Style([_APP, "aiohttp", "{port}"], _IN_TASKS, ("aiohttp", "httpx", "streams")),
    "aiohttp-uvloop": Style([_APP, "aiohttp", "{port}"], _IN_TASKS, ("aiohttp", "httpx", "streams"), "uvloop"),
    "streams": Style([_APP, "streams", "{port}"], _IN_TASKS, ("streams", "httpx", "aiohttp")),
    "streams-uvloop": Style([_APP, "streams", "{port}"], _IN_TASKS, ("streams", "httpx", "aiohttp"), "uvloop"),
}
# What misleads: see calling_oddly.py.
ODD = Style(
    [str(SERVICES / "calling_oddly.py"), "{port}"],
    ("sequence", "gather", "executor", "default-pool", "churn", "after", "worker", "fork"),
    ("streams",),
)
ODD_TASKS = _by_uvicorn("asyncio", "calling_oddly:asgi", ("sequence", "gather", "executor", "churn", "worker", "job"))
_NAME = re.compile(r"(?P<style>.+?)(?:\+(?P<client>[^-]+))?(?P<tls>-tls)?")


def all_styles() -> list[str]:
    """With every client, plain and by TLS."""
    return [
        f"{name}{'' if client == style.clients[0] else '+' + client}{tls}"
        for name, style in STYLES.items()
        for client in style.clients
        for tls in ("", "-tls")
    ]


def caused_by(names: Iterable[str], calls: Mapping[str, int] = CALLS) -> dict[str, str]:
    """What each call is that these requests cause: its path, and the request's. A name is of a kind: `gather/1`."""
    return {f"/out/{name}/{number}": f"/in/{name}" for name in names for number in range(calls[name.partition("/")[0]])}


@dataclass
class CallingService:
    process: Popen[bytes]
    port: int
    kinds: tuple[str, ...]
    speaks_tls: bool = False
    calls: Mapping[str, int] = field(default_factory=lambda: CALLS)  # how many a request of each kind causes

    def ask(self, prefix: str, count: int, at_once: int, kinds: tuple[str, ...] = ()) -> dict[str, str]:
        """So many requests of each kind. What each of the calls is that they cause: its path, and the request's."""
        waiting = [f"{kind}/{prefix}{number}" for kind in kinds or self.kinds for number in range(count)]
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
        return caused_by(asked, self.calls)

    def _connection(self) -> http.client.HTTPConnection:
        if not self.speaks_tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        context = ssl.create_default_context(cafile=session_certificates().authority)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)


@contextmanager
def calling_service(
    name: str, folder: Path, python: str = str(VENV_BIN / "python"), style: Style | None = None
) -> Iterator[CallingService]:
    """One of `all_styles`, or this one; under this interpreter."""
    asked = _NAME.fullmatch(name)
    assert asked is not None
    style = style or STYLES[asked["style"]]
    with calling_and_called(
        [python, *style.arguments, *(style.tls if asked["tls"] else ())],
        [sys.executable, _APP, "called", "{port}"],
        folder,
        speaks_tls=asked["tls"] is not None,
        CLIENT=asked["client"] or style.clients[0],
        LOOP=style.loop,
    ) as (process, port):
        yield CallingService(process, port, style.kinds, asked["tls"] is not None)


@contextmanager
def calling_and_called(
    calling: list[str], called: list[str], folder: Path, *, speaks_tls: bool, **variables: str
) -> Iterator[tuple[Popen[bytes], int]]:
    """Who calls, and where it listens. Both commands have places for `{port}`, `{certificate}` and `{key}`."""
    port, called_port = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    files = {"certificate": "", "key": ""}
    if speaks_tls:
        files = {"certificate": session_certificates().certificate, "key": session_certificates().key}
    with ExitStack() as ends:
        for what, command, where in (("called", called, called_port), ("calling", calling, port)):
            made = [part.format(port=where, **files) for part in command]
            env = environment(
                CALLS_TO=str(called_port),
                PYTHONPATH=f"{SERVICES}:{CHECKOUT}",
                CERTIFICATE=files["certificate"],
                KEY=files["key"],
                **variables,
            )
            process = ends.enter_context(running(made, ("127.0.0.1", where), log=folder / what, env=env))
        yield process, port
