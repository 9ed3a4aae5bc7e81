"""What npm has that is not needed by default: Node of each line, clients. See tests/node/package.json.

In:   that file
Out:  a folder of packages, in a cache outside the checkout, named by what went in
Owns: that cache
"""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from tests.services.processes import CHECKOUT
from tests.services.servers import program
from tools.go_build import cache_folder

WANTED = CHECKOUT / "tests" / "node" / "package.json"
LINES = ("20", "22", "24")


def node_packages() -> Path:
    """Fetched at the first time, beside the name that it gets in the end."""
    folder = cache_folder() / f"node-{hashlib.sha256(WANTED.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="node-", suffix=".tmp", dir=folder.parent))
        (partial / WANTED.name).write_bytes(WANTED.read_bytes())
        options = ["--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([program("npm"), "install", *options], cwd=partial, check=True, timeout=600)
        os.chmod(partial, 0o755)
        partial.rename(folder)
    return folder / "node_modules"


def node_of(line: str) -> str:
    """One of `LINES`."""
    return str(node_packages() / f"node{line}" / "bin" / "node")
