"""Builds a Go module of this checkout once: `python -m tools.go_build tests/collector`.

In:   a folder with go.mod; one without Go files of its own names the program of another module in a `tool` line
Out:  the path of its program, in a cache outside the checkout, named by what went in
Owns: that cache

The cache is why a second test run costs nothing. Distributions ship older compilers than go.mod asks for; one that
cannot fetch its successor by itself (before 1.21) gets it as Go itself would: as a module, checked by its sum.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/go/bin", "/usr/lib/go/bin"])
TOOLCHAIN = "go1.26.0"  # fetched where the installed one is older than go.mod asks for
FIRST_SELF_UPDATING = (1, 21)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-ebpf-tests"


def version_of(go: str) -> tuple[int, int]:
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    if found is None:
        raise RuntimeError(f"{go} env GOVERSION says {said!r}")
    return int(found[1]), int(found[2])


def find_go() -> str:
    go = shutil.which("go", path=SEARCH_PATH)
    if go is None:
        raise RuntimeError("Go is not installed: make setup-test installs it")
    return go if version_of(go) >= FIRST_SELF_UPDATING else fetched_toolchain(go)


def fetched_toolchain(go: str) -> str:
    architecture = subprocess.run([go, "env", "GOARCH"], capture_output=True, text=True, check=True).stdout.strip()
    module = f"golang.org/toolchain@v0.0.1-{TOOLCHAIN}.linux-{architecture}"
    command = [go, "mod", "download", "-json", module]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout
    home = Path(json.loads(said)["Dir"])
    for program in [*(home / "bin").iterdir(), *(home / "pkg" / "tool").rglob("*")]:  # modules carry no modes
        if program.is_file():
            program.chmod(0o755)
    return str(home / "bin" / "go")


@dataclass(frozen=True)
class Kind:
    """How a program is built; as it stands here it is static, at a fixed place."""

    toolchain: str = ""  # like go1.21.13, which is fetched as a module; else what is installed
    is_pie: bool = False
    has_c: bool = False  # linked with C code, by the C compiler's linker

    def environment(self) -> dict[str, str]:
        toolchain = {"GOTOOLCHAIN": self.toolchain} if self.toolchain else {}
        return {"CGO_ENABLED": "1" if self.has_c else "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", **toolchain}

    def options(self) -> list[str]:
        mode = ["-buildmode=pie"] if self.is_pie else []
        return ["-trimpath", f"-ldflags=-s -w{' -linkmode=external' if self.has_c else ''}", *mode]


PLAIN = Kind()


def build(module: Path, kind: Kind = PLAIN, package: str = ".") -> Path:
    """Written beside its name, then renamed: a build that was cut short leaves nothing that looks whole."""
    go = find_go()
    environment = {**os.environ, **kind.environment()}
    sources = sorted(path for path in module.rglob("*") if path.suffix in (".go", ".mod", ".sum"))
    what = hashlib.sha256(subprocess.run([go, "version"], env=environment, capture_output=True, check=True).stdout)
    if kind != PLAIN:
        what.update(repr(kind).encode() + b"\0")
    for source in sources:
        what.update(os.fsencode(source.relative_to(module)) + b"\0" + source.read_bytes() + b"\0")
    name = module.name if package == "." else Path(package).name
    program = cache_folder() / f"{name}-{what.hexdigest()[:16]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}.tmp")
        package = package if any(path.suffix == ".go" for path in sources) else "tool"
        command = [go, "build", "-mod=readonly", *kind.options(), "-o", str(partial), package]
        for is_last in (False, False, True):  # modules are fetched on the way, and a server may fail to answer once
            if not subprocess.run(command, cwd=module, env=environment, check=is_last).returncode:
                break
        partial.rename(program)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", type=Path)
    print(build(parser.parse_args().module.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
