import os
from pathlib import Path

from otel_ebpf.probe.executables import find_executables


def inodes(*globs: str) -> set[int]:
    return {inode for inode, _ in find_executables(globs)}


def test_an_absolute_glob_finds_its_files(tmp_path: Path):
    for name in ("shop-1", "shop-2", "other"):
        (tmp_path / name).touch()

    assert {(tmp_path / name).stat().st_ino for name in ("shop-1", "shop-2")} == inodes(f"{tmp_path}/shop-*")


def test_a_name_is_looked_for_in_the_usual_folders():
    assert {os.stat("/bin/sh").st_ino} == inodes("*/sh") == inodes("sh")


def test_a_file_has_the_path_that_its_processes_are_said_to_run(tmp_path: Path):
    (tmp_path / "python3.99").touch()
    (tmp_path / "python3").symlink_to("python3.99")

    assert [f"{tmp_path}/python3.99"] == list(find_executables([f"{tmp_path}/python*"]).values())


def test_what_is_not_there_is_nothing(tmp_path: Path):
    assert {} == find_executables([f"{tmp_path}/none", "no-such-program-anywhere"])


def test_a_device_has_the_number_that_the_kernel_uses():
    """include/linux/kdev_t.h: 12 bits of major, 20 of minor."""
    ((_, device),) = find_executables(["/bin/sh"])
    status = os.stat("/bin/sh")

    assert (os.major(status.st_dev), os.minor(status.st_dev)) == (device >> 20, device & 0xFFFFF)
