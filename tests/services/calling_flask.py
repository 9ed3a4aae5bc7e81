"""The service of calling_app.py by Flask's own server, a thread for each connection: `python calling_flask.py PORT`."""

from __future__ import annotations

import logging
import sys

from flask import Flask

from tests.services.calling_app import start_noise, work
from tests.services.calling_clients import CERTIFICATE, KEY, ask_in_threads

app = Flask("calling")


@app.get("/")
def root() -> str:
    return "ok"


@app.get("/in/plain/<name>")
def plain(name: str) -> str:
    work(f"/in/plain/{name}", ask_in_threads())
    return "ok"


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    start_noise()
    app.run("127.0.0.1", int(sys.argv[1]), threaded=True, ssl_context=(CERTIFICATE, KEY) if CERTIFICATE else None)
