"""The agent as a package: installed from a copy of the checkout into an environment that `nobody` cannot read."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.agent import running_agent
from tests.end_to_end.sink import SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences
from tests.services.plan import all_calls
from tests.services.processes import CHECKOUT, environment

PACKAGED = ("otel_ebpf", "bpf")


def other_interpreter() -> Path:
    """One that cannot import bcc, as pyenv's cannot; the distribution's own where there is no other."""
    others = sorted(Path.home().glob(".pyenv/versions/3.1[0-9].*/bin/python3"))
    return others[-1] if others else Path("/usr/bin/python3")


@pytest.fixture(scope="session")
def installed_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pip install .` in an environment below a folder that only root may enter."""
    folder = tmp_path_factory.mktemp("installed")
    folder.chmod(0o700)
    source = folder / "source"
    source.mkdir()
    for name in PACKAGED:
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(CHECKOUT / name, source / name)
    subprocess.run([str(other_interpreter()), "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv" / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", str(source)]
    subprocess.run(pip, check=True, timeout=300, env=environment())
    shutil.rmtree(source)  # nothing may come from there any more
    return folder / "venv" / "bin" / "otel-ebpf"


def test_installed_package_holds_the_bpf_sources(installed_command: Path) -> None:
    """They are compiled on the machine that runs them."""
    packages = next(installed_command.parent.parent.glob("lib/python3.*/site-packages/otel_ebpf"))

    assert sorted(path.name for path in (CHECKOUT / "bpf").glob("*.[ch]")) == sorted(
        path.name for path in (packages / "bpf").iterdir()
    )


def test_installed_command_watches_a_service(installed_command: Path, prefix: str, stage: Stage) -> None:
    """bcc's interpreter is found though this one cannot import it, and the exporter needs no file it cannot read."""
    server = stage.server("go")
    command = [str(installed_command), "run"]
    settings = {"OTEL_EBPF_OPEN_PORT": str(server.port)}
    stage.ends.enter_context(running_agent(stage.new_folder("agent"), stage.sink, command=command, **settings))

    results = stage.client("http.client", server, all_calls(prefix)).send()

    assert [] == differences(results, stage.sink.wait_for(len(results), belongs_to(prefix)), SERVER)


@pytest.mark.parametrize("argument", ["--version", "--help", "check"])
def test_installed_command_answers(argument: str, installed_command: Path) -> None:
    done = subprocess.run(
        [str(installed_command), argument], capture_output=True, text=True, check=False, timeout=120, env=environment()
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert "otel-ebpf" in done.stdout


def test_every_service_is_watched_when_none_is_named(tmp_path: Path, prefix: str) -> None:
    """The default, tried where this test's own services are all that there is: new PID and network namespaces."""
    driver = [
        str(CHECKOUT / ".venv" / "bin" / "python"),
        "-m",
        "tests.end_to_end.default_selection",
        prefix,
        str(tmp_path),
    ]
    command = ["unshare", "--pid", "--net", "--mount-proc", "--fork", "--kill-child", *driver]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=CHECKOUT)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert {"differences": [], "servers": 2} == json.loads(done.stdout.splitlines()[-1])
