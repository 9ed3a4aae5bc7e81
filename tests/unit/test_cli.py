"""The command: what it prints and how it ends."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_ebpf import __version__, cli
from otel_ebpf.config import SETTINGS, Settings
from otel_ebpf.errors import AgentError, PreflightError, ProbeError, SettingsError, error_text
from otel_ebpf.probe import preflight
from otel_ebpf.probe.preflight import Finding

ROOT = Path(__file__).parents[2]


def otel_ebpf(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environ}
    command = [sys.executable, "-m", "otel_ebpf", *arguments]
    return subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def test_the_version_is_printed() -> None:
    done = otel_ebpf("--version")

    assert (0, f"otel-ebpf {__version__}\n") == (done.returncode, done.stdout)


def test_the_help_names_every_command_and_setting() -> None:
    done = otel_ebpf("--help")

    assert 0 == done.returncode
    assert all(name in done.stdout for setting in SETTINGS for name in setting.names)
    assert {"run", "check", "status"} <= set(done.stdout.split())


def test_a_command_that_does_not_exist_is_refused() -> None:
    assert 2 == otel_ebpf("fly").returncode


def test_bad_settings_end_the_start_and_name_themselves() -> None:
    done = otel_ebpf("run", OTEL_EBPF_OPEN_PORT="http", OTEL_EBPF_RING_BYTES="3")

    assert 2 == done.returncode
    assert done.stderr.splitlines() == [
        "otel-ebpf: cannot use OTEL_EBPF_OPEN_PORT='http', OTEL_EBPF_RING_BYTES='3'.",
        "  OTEL_EBPF_OPEN_PORT: ports from 1 to 65535 and ranges of them, such as 80,8000-8999",
        "  OTEL_EBPF_RING_BYTES: bytes from 4096 to 1073741824, or with a unit, such as 8MiB",
        "  `otel-ebpf --help` lists every setting.",
    ]


def test_a_switched_off_agent_ends_at_once_and_warnings_come_once() -> None:
    done = otel_ebpf("run", OTEL_SDK_DISABLED="true", OTEL_EBPF_OPEN_PORTS="80")

    assert 0 == done.returncode
    assert done.stderr.splitlines() == [
        "otel-ebpf: OTEL_EBPF_OPEN_PORTS is not a setting; did you mean OTEL_EBPF_OPEN_PORT?",
        "otel-ebpf: OTEL_SDK_DISABLED=true: nothing is watched.",
    ]


def test_the_command_loads_nothing_that_the_probe_would_have_to_carry() -> None:
    """What is imported before the fork stays in the privileged process as long as it lives."""
    code = "import sys, otel_ebpf.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())

    assert {"opentelemetry", "google", "grpc", "requests", "psutil", "bcc"}.isdisjoint(loaded)


# --- Errors ---


@pytest.mark.parametrize(
    ("error", "command", "expected"),
    [
        (
            ProbeError("cannot compile: no headers for 6.1.0-21", "Install them."),
            "run",
            """otel-ebpf: cannot compile: no headers for 6.1.0-21.
  Install them.
  `otel-ebpf check` lists everything this machine still lacks.""",
        ),
        (AgentError("cannot go on."), "check", "otel-ebpf: cannot go on."),
        (
            SettingsError("cannot use X='1'", "X: a\nY: b"),
            "run",
            "otel-ebpf: cannot use X='1'.\n  X: a\n  Y: b\n  `otel-ebpf --help` lists every setting.",
        ),
    ],
)
def test_an_error_says_what_failed_how_to_mend_it_and_where_to_look(
    error: AgentError, command: str, expected: str
) -> None:
    assert expected == error_text(error, *cli.hints(error, command))


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status"), [(ProbeError("x"), 4), (PreflightError("x"), 3), (KeyboardInterrupt(), 130)]
)
def test_the_exit_status_tells_the_kind_of_error(error: BaseException, status: int) -> None:
    assert status == cli.exit_status_of(raising(error))


def test_an_error_of_our_own_making_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.exit_status_of(raising(ZeroDivisionError()))


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    """`otel-ebpf check | head -1`"""
    code = "import sys; from otel_ebpf import cli; sys.exit(cli.exit_status_of(lambda: print('x' * 100_000)))"
    command, environ = [sys.executable, "-c", code], {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        complaints = child.stderr.read()

    assert b"" == complaints
    assert 1 == child.returncode


# --- check ---


def check(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], **environ: str) -> int:
    monkeypatch.setattr(preflight, "examine", lambda *_: findings)
    return cli.check(Settings.from_environ(environ)[0])


def test_check_lists_every_lack_with_its_remedy_and_its_status_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [
        Finding("rights", True, True, "root"),
        Finding("bcc", False, True, "no interpreter can import it", "apt-get install python3-bpfcc"),
        Finding("kprobes", False, False, "not in this kernel", "Another kernel."),
    ]
    status = check(monkeypatch, findings)
    lines = capsys.readouterr().out.splitlines()

    assert 3 == status
    assert "  ok      rights: root" in lines
    assert "  MISSING bcc: no interpreter can import it" in lines
    assert "          apt-get install python3-bpfcc" in lines
    assert "  without kprobes: not in this kernel" in lines
    assert lines[-1] == "`otel-ebpf run` cannot start: see MISSING above."


def test_check_succeeds_when_only_optional_things_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 == check(monkeypatch, [Finding("kprobes", False, False, "not in this kernel")])


def test_check_says_whether_the_collector_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"
        check(monkeypatch, [], OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        up = capsys.readouterr().out
    check(monkeypatch, [], OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    down = capsys.readouterr().out

    assert "by http/protobuf: reachable" in up
    assert "not reachable now: Connection refused" in down
    assert "secret" not in up + down


SERVER = """
import http.server
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
print(server.server_port, flush=True)
input()
"""


def test_check_names_the_services_that_would_be_watched() -> None:
    """The name is another user's text, on the terminal of root."""
    environ = {"OTEL_SERVICE_NAME": "shop\x1b[2J"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        watched = otel_ebpf("check", OTEL_EBPF_OPEN_PORT=str(port)).stdout
        server.communicate(b"\n")
    none = otel_ebpf("check", OTEL_EBPF_OPEN_PORT=str(port), OTEL_EBPF_AUTO_TARGET_EXE="*/no-such").stdout

    assert f"{server.pid} 'shop\\x1b[2J' ports {port} (listens on port {port})" in watched
    assert f"none now: no process listens on {port} or runs */no-such" in none


# --- status ---


def test_without_an_agent_status_says_so_and_ends_with_1(tmp_path: Path) -> None:
    done = otel_ebpf("status", OTEL_EBPF_STATUS_SOCKET=f"{tmp_path}/s")

    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(f"otel-ebpf: no agent listens at {tmp_path}/s.\n  Start one with `otel-ebpf run`.")
    assert "otel-ebpf check" not in done.stderr


def test_an_agent_that_may_not_be_asked_is_told_from_one_that_is_not_there() -> None:
    done = otel_ebpf("status", OTEL_EBPF_STATUS_SOCKET="none")

    assert 1 == done.returncode
    assert "OTEL_EBPF_STATUS_SOCKET is none" in done.stderr


def test_what_is_no_agent_is_named_as_such() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()

        def answer() -> None:
            client, _ = listener.accept()
            client.sendall(b"220 mail ready\r\n")
            client.close()

        other = threading.Thread(target=answer)
        other.start()
        done = otel_ebpf("status", OTEL_EBPF_STATUS_SOCKET=f"{folder}/s")
        other.join()

    assert 1 == done.returncode
    assert "is no agent" in done.stderr
