"""The kernels that tests run on beside the host's own: fetched from Debian, unpacked, never installed.

In:   a name of KERNELS
Out:  a Kernel: its image and its modules, in a cache outside the checkout, named by the package with its version
Owns: that cache, and package lists of its own there, so that the host's apt stays as it is

Debian's archive is asked whatever distribution this host is, and what comes is checked by Debian's keys.
"""

import re
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tools.go_build import cache_folder

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_TIMEOUT_SECONDS = 600


class KernelRow(NamedTuple):
    suite: str
    package: str  # depends on the newest kernel of its line
    has_uprobes: bool = True  # such as the agent can use


KERNELS = {
    "5.10": KernelRow("bullseye", "linux-image-amd64", has_uprobes=False),
    "6.1": KernelRow("bookworm", "linux-image-amd64"),
    "6.1-cloud": KernelRow("bookworm", "linux-image-cloud-amd64"),
    "6.12": KernelRow("bookworm", "linux-image-6.12-amd64"),
    "6.12-cloud": KernelRow("bookworm", "linux-image-6.12-cloud-amd64"),
}


class Kernel(NamedTuple):
    folder: Path

    @property
    def image(self) -> Path:
        (image,) = (self.folder / "boot").glob("vmlinuz-*")
        return image

    @property
    def release(self) -> str:
        return self.image.name.removeprefix("vmlinuz-")

    @property
    def modules(self) -> Path:
        return self.folder / "lib" / "modules" / self.release


class KernelError(Exception):
    """Says what could not be had, and what was tried."""


def kernels_folder() -> Path:
    return cache_folder() / "kernels"


def find_kernel(name: str, *, is_newest: bool = False) -> Kernel:
    """The one fetched before, else the newest there is."""
    if name not in KERNELS:
        raise KernelError(f"no kernel {name!r}; there are {', '.join(KERNELS)}")
    known = kernels_folder() / name
    if is_newest or not known.exists():
        known.parent.mkdir(parents=True, exist_ok=True)
        unpacked = _fetch(KERNELS[name])
        fresh = known.with_name(f"{name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(unpacked.name)
        fresh.rename(known)
    return Kernel(known.resolve())


def _fetch(row: KernelRow) -> Path:
    """Into a folder beside its name, then renamed: what was cut short leaves nothing that looks whole."""
    apt = _Apt(row.suite)
    package = apt.newest(row.package)
    target = kernels_folder() / f"{package.name}_{package.version}"
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="unpacking-", dir=kernels_folder()) as folder:
            archive = apt.download(package, Path(folder))
            unpacked = Path(folder) / "unpacked"
            _run(["dpkg-deb", "--extract", str(archive), str(unpacked)])
            release = Kernel(unpacked).release
            _run(["depmod", "--basedir", str(unpacked), release])  # the package's own script does it otherwise
            unpacked.rename(target)
    return target


class _Package(NamedTuple):
    name: str
    version: str


class _Apt:
    """Debian's archive, with lists and settings apart from the host's; proxies are the host's."""

    def __init__(self, suite: str) -> None:
        if not KEYRING.exists():
            raise KernelError(f"{KEYRING} is missing: make setup-vm installs it")
        state = kernels_folder() / "apt" / suite
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        one = f"deb [arch=amd64 target=Packages lang=none signed-by={KEYRING}] http://deb.debian.org/"
        lines = f"{one}debian {suite} main\n{one}debian-security {suite}-security main\n"
        (state / "sources.list").write_text(lines)
        (state / "status").touch()  # as on a host where nothing is installed
        settings = {
            "Dir::Etc::SourceList": state / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::Cache": state / "cache",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",  # the cache is in root's home
            "Acquire::Retries": "3",
        }
        self._settings = [f"-o{name}={value}" for name, value in settings.items()]
        self._get("update", "--error-on=any")

    def newest(self, package: str) -> _Package:
        """What the package of a line depends on: `linux-image-6.1.0-32-amd64 (= 6.1.129-1)`."""
        said = _run(["apt-cache", *self._settings, "show", "--no-all-versions", package])
        found = re.search(r"^Depends: (linux-image-\S+) \(= (\S+)\)", said, re.MULTILINE)
        if found is None:
            raise KernelError(f"{package} names no kernel of a version: {said}")
        return _Package(found[1], found[2])

    def download(self, package: _Package, folder: Path) -> Path:
        self._get("download", f"{package.name}={package.version}", cwd=folder)
        (archive,) = folder.glob("*.deb")
        return archive

    def _get(self, *what: str, cwd: Path | None = None) -> str:
        """A mirror may fail to answer, also more often than apt tries by itself."""
        for _ in range(2):
            with suppress(KernelError):
                return _run(["apt-get", "-q", *self._settings, *what], cwd)
            time.sleep(5)
        return _run(["apt-get", "-q", *self._settings, *what], cwd)


def _run(command: list[str], cwd: Path | None = None) -> str:
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise KernelError(f"{command[0]} is missing: make setup-vm installs it")
    done = subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=APT_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise KernelError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
