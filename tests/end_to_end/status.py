"""Asks a running agent, as a user does: `otel-ebpf status`; or as the command itself does, for the document.

In:   the path of the agent's socket
Out:  what was answered, and the numbers of one service in it
Owns: nothing
"""

import json
import re
import subprocess
from typing import Any

from otel_ebpf.status_socket import ask_status as ask_document
from tests.services.processes import VENV_BIN, environment


def ask_status(path: str) -> subprocess.CompletedProcess[str]:
    env = environment(OTEL_EBPF_STATUS_SOCKET=path)
    command = [str(VENV_BIN / "otel-ebpf"), "status"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def status_document(path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ask_document(path))
    return document


def lines_of(status: str, service_pid: int) -> str:
    """Of one service, from its name to the next empty line."""
    block = re.search(rf"\(pid {service_pid}\), .*?(?:\n\n|\Z)", status, re.DOTALL)
    return block[0] if block else ""


def numbers_of(status: str, service_pid: int) -> dict[str, int]:
    text = lines_of(status, service_pid).partition("not seen")[0]
    lines = [line[12:] for line in text.splitlines()[1:]]
    parts = [re.fullmatch(r"(\d+) (.+)", part) for line in lines for part in re.split(r", (?=\d)", line)]
    return {part[2]: int(part[1]) for part in parts if part}
