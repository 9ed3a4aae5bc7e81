"""Which Python interpreters may have bcc, the likeliest first.

In:   the folders where a distribution puts Python, this process's own interpreter, PATH
Out:  paths; whether one can import bcc, only running it can tell
Owns: nothing

bcc belongs to the distribution's Python. The `python3` on PATH is often another one (pyenv, conda, a virtual
environment), and so is the one that runs the agent.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

SYSTEM_FOLDER = Path("/usr/bin")


def candidate_interpreters(
    chosen: str | None = None,
    *,
    system_folder: Path = SYSTEM_FOLDER,
    own: str = sys.executable,
    search_path: Sequence[str] | None = None,
) -> list[str]:
    """Only the chosen one, if the user chose."""
    if chosen:
        return [chosen]
    versions = sorted(
        (path for path in system_folder.glob("python3.*") if path.name.removeprefix("python3.").isdigit()),
        key=lambda path: int(path.name.removeprefix("python3.")),
        reverse=True,
    )
    found = [system_folder / "python3", *versions, Path(own)]
    found += [Path(folder) / "python3" for folder in (os.get_exec_path() if search_path is None else search_path)]
    distinct: dict[tuple[Path, Path], str] = {}
    for path in found:
        if os.path.isfile(path) and os.access(path, os.X_OK):  # False, too, where this user may not look
            # The same binary in the same folder is the same interpreter; in another folder it may be a virtual one.
            distinct.setdefault((path.parent, path.resolve()), str(path))
    return list(distinct.values())
