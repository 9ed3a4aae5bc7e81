"""The folder that the unprivileged exporter writes to."""

import os
from pathlib import Path

import pytest

from otel_ebpf.errors import AgentError
from otel_ebpf.probe.private_folder import make_folder_for

ME = os.getuid(), os.getgid()
NOBODY = 65534, 65534
as_root = pytest.mark.parametrize("owner", [NOBODY] if os.getuid() == 0 else [ME])


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o777


@as_root
def test_folder_is_made_for_its_user_alone(tmp_path: Path, owner: tuple[int, int]) -> None:
    """Parents that are missing, too; spans hold paths and addresses of other people's requests."""
    folder = tmp_path / "a" / "spool"
    make_folder_for(str(folder), *owner)

    assert (*owner, 0o700) == (folder.stat().st_uid, folder.stat().st_gid, mode(folder))
    make_folder_for(str(folder), *owner)


def test_folder_that_others_may_enter_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)

    with pytest.raises(AgentError, match="with mode 755") as caught:
        make_folder_for(str(tmp_path), *ME)
    assert caught.value.remedy.endswith(f"chmod 700 {tmp_path}")


def test_folder_with_something_in_it_is_never_given_away(tmp_path: Path) -> None:
    """It may be somebody's: /etc, named by mistake."""
    (tmp_path / "file").touch()

    with pytest.raises(AgentError, match="belongs to user"):
        make_folder_for(str(tmp_path), *NOBODY)
    assert os.getuid() == tmp_path.stat().st_uid


def test_link_is_not_followed(tmp_path: Path) -> None:
    """Who may write beside it must not choose which folder root gives away."""
    (tmp_path / "real").mkdir()
    (tmp_path / "spool").symlink_to(tmp_path / "real")

    with pytest.raises(AgentError, match="cannot keep spans"):
        make_folder_for(str(tmp_path / "spool"), *ME)


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()

    with pytest.raises(AgentError, match="OTEL_EBPF_SPOOL_DIR"):
        make_folder_for(str(tmp_path / "spool"), *ME)
