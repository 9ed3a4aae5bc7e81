"""The first file system of a guest: busybox, and modules: those that reach the host's root, and kernel TLS.

In:   a Kernel
Out:  a cpio archive beside it, made once
Owns: that archive
"""

import gzip
import hashlib
import lzma
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.vm.kernels import Kernel, KernelError

MODULES = ("virtio_pci", "virtiofs", "overlay", "virtio_rng")
KERNEL_TLS = ("tls", "gcm", "ctr", "ghash-generic")  # Debian's 5.10 has none
BUSYBOX = "/bin/busybox"
INIT = Path(__file__).with_name("init.sh")


def initramfs(kernel: Kernel) -> Path:
    if not Path(BUSYBOX).exists():
        raise KernelError(f"{BUSYBOX} is missing: make setup-vm installs it")
    what = hashlib.sha256(INIT.read_bytes() + Path(__file__).read_bytes() + Path(BUSYBOX).read_bytes()).hexdigest()
    archive = kernel.folder / f"initramfs-{what[:16]}"
    if not archive.exists():
        with tempfile.TemporaryDirectory(prefix="initramfs-", dir=kernel.folder) as name:
            folder = Path(name)
            _fill(folder / "root", kernel)
            (folder / "archive").write_bytes(gzip.compress(_packed(folder / "root"), 1))
            (folder / "archive").rename(archive)
    return archive


def _fill(folder: Path, kernel: Kernel) -> None:
    for name in ("bin", "dev", "proc", "sys", "modules", "host", "scratch", "root"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin")
    shutil.copy(INIT, folder / "init")
    (folder / "init").chmod(0o755)
    for number, module in enumerate(_modules_in_order(kernel)):
        name = module.name.removesuffix(".xz")
        content = lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()
        (folder / "modules" / f"{number:02}-{name}").write_bytes(content)


def _packed(folder: Path) -> bytes:
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    command = ["cpio", "--create", "--format=newc", "--quiet"]
    return subprocess.run(command, input=names.encode(), capture_output=True, cwd=folder, check=True).stdout


def _modules_in_order(kernel: Kernel) -> list[Path]:
    """What `insmod` is to be given, dependencies first; what is built in is not among them."""
    found: dict[Path, None] = {}
    for module in MODULES + KERNEL_TLS:
        command = [
            "/sbin/modprobe",
            f"--dirname={kernel.folder}",
            f"--set-version={kernel.release}",
            "--show-depends",
            module,
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=module in MODULES).stdout
        for line in said.splitlines():
            action, _, path = line.strip().partition(" ")
            if action == "insmod":
                found[Path(path.strip())] = None
    return list(found)
