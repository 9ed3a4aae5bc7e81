"""Makes a folder in which the unprivileged exporter alone may write.

In:   a path, a user and a group; called with the rights to give something away
Out:  the folder, or AgentError before anything is watched
Owns: nothing

Only a folder that is new, or empty and root's, is given away: who may change a path must not make root give away another one.
"""

import os
import stat

from otel_ebpf.errors import AgentError

_MODE = 0o700


def make_folder_for(path: str, uid: int, gid: int) -> None:
    """A folder that exists has to be the user's, and nobody else's."""
    try:
        os.makedirs(path, _MODE, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(folder)
            if found.st_uid == 0 and not os.listdir(folder):
                os.fchown(folder, uid, gid)
                os.fchmod(folder, _MODE)
                found = os.fstat(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error), "Name a folder that can be made, or exists.") from error
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != uid or mode & (stat.S_IRWXG | stat.S_IRWXO):
        why = f"it belongs to user {found.st_uid} with mode {mode:o}, and has to be user {uid}'s alone"
        raise _unusable(path, why, f"chown -R {uid} {path} && chmod {_MODE:o} {path}")


def _unusable(path: str, why: str, remedy: str) -> AgentError:
    return AgentError(f"cannot keep spans in OTEL_EBPF_SPOOL_DIR={path}: {why}", remedy)
