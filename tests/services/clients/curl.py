"""curl, one process a call: `python -m tests.services.clients.curl PLAN`.

The plan's "program" names the curl to run, so that a test can watch a copy that nobody else runs.
"""

import json
import subprocess
from typing import Any

from tests.services.clients.driver import Outcome, Send, drive, request_body


def make_send(plan: dict[str, Any]) -> Send:
    base = f"{plan['scheme']}://{plan['host']}:{plan['port']}"
    options = ["--unix-socket", plan["unix_socket"]] if plan["unix_socket"] else []
    if plan["authority"]:
        # --http1.1: it offers h2 otherwise.
        options += ["--cacert", plan["authority"], "--http1.1"]
    if plan["tls_version"]:
        options += ["--tls-max", plan["tls_version"].removeprefix("TLSv")]

    def send(call: dict[str, Any]) -> Outcome:
        # --head for HEAD: with --request HEAD alone curl waits for a body that never comes.
        method = ["--head"] if call["method"] == "HEAD" else ["--request", call["method"]]
        headers = [part for name, value in call["headers"].items() for part in ("--header", f"{name}: {value}")]
        body = request_body(call)
        upload = ["--data-binary", "@-"] if body else []
        if call["request_chunked"]:
            headers += ["--header", "Transfer-Encoding: chunked"]
        report = "%{json}"
        command = [
            plan["program"],
            "--silent",
            "--show-error",
            "--globoff",
            "--output",
            "/dev/null",
            "--write-out",
            report,
        ]
        done = subprocess.run(
            [*command, *options, *method, *headers, *upload, base + call["target"]],
            input=body,
            capture_output=True,
            check=True,
            timeout=60,
        )
        said = json.loads(done.stdout)
        return said["http_code"], said["size_download"] if call["method"] != "HEAD" else 0, None

    return send


if __name__ == "__main__":
    drive(make_send)
