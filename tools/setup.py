"""Makes this checkout ready: distribution packages, then .venv with this package in it.

In:   what for: `run`, `check` (adds what tests without root need), `vm` (adds what boots other kernels), `test` (adds the
      servers and clients of all tests), `kafka` (adds what Apache Kafka needs to `test`) or `fuzz` (adds the fuzzer to `check`)
Out:  .venv/bin/otel-ebpf; exit 0, or 1 with the command to run by hand
Owns: .venv and the stamp in it

Run by the distribution's interpreter, and .venv is made from it: another one (pyenv, conda) may lie in a home folder
that the agent's unprivileged half cannot read. Standard library only, because nothing is installed yet. When all is
there it looks at a stamp and a few paths, and needs no network.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from distribution import SetupError, install_missing

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
DISTRIBUTION_PYTHON = Path("/usr/bin/python3")
STAMP = VENV / ".installed"
EXTRAS = {
    "run": "",
    "check": "[test]",
    "vm": "[test]",
    "test": "[test]",
    "kafka": "[test]",
    "fuzz": "[test,fuzz]",
}  # holding those before


def wanted_stamp(extras: str) -> str:
    """Changes when another installation would come out."""
    parts = [
        (CHECKOUT / "pyproject.toml").read_bytes(),
        extras.encode(),
        sys.version.encode(),
        str(CHECKOUT).encode(),  # an environment does not survive being moved
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_installed(level: str) -> bool:
    """By this level or a later one."""
    enough = list(EXTRAS.values())[list(EXTRAS).index(level) :]
    return (
        STAMP.exists()
        and STAMP.read_text() in {wanted_stamp(extras) for extras in enough}
        and (VENV / "bin" / "otel-ebpf").exists()
        and (VENV / "bin" / "python").exists()  # false when it links to an interpreter that is gone
    )


def is_from_distribution(venv: Path) -> bool:
    """A venv made by another interpreter would fail only later, inside the agent: it is made anew."""
    settings = venv / "pyvenv.cfg"
    python = venv / "bin" / "python"
    return settings.exists() and python.exists() and python.resolve() == DISTRIBUTION_PYTHON.resolve()


def run_quietly(command: list[str]) -> None:
    """Shows the output only of what fails."""
    done = subprocess.run(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def install(level: str) -> None:
    if not is_from_distribution(VENV):
        print(f"setup: making {VENV}", flush=True)
        run_quietly([str(DISTRIBUTION_PYTHON), "-m", "venv", "--clear", str(VENV)])
    package = f".{EXTRAS[level]}"
    print(f"setup: installing {package} into {VENV}", flush=True)
    STAMP.unlink(missing_ok=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    run_quietly([*pip, "--disable-pip-version-check", "--root-user-action=ignore", "--editable", package])
    STAMP.write_text(wanted_stamp(EXTRAS[level]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("level", choices=sorted(EXTRAS))
    level = parser.parse_args().level
    if Path(sys.executable).resolve() != DISTRIBUTION_PYTHON.resolve():
        return subprocess.call([str(DISTRIBUTION_PYTHON), *sys.argv])
    try:
        install_missing(level)
        if not is_installed(level):
            install(level)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0 if shutil.which("otel-ebpf", path=str(VENV / "bin")) else 1


if __name__ == "__main__":
    raise SystemExit(main())
