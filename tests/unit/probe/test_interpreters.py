from pathlib import Path

from otel_ebpf.probe.interpreters import candidate_interpreters


def interpreter(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_the_distribution_comes_first_then_our_own_then_the_path(tmp_path: Path):
    """bcc belongs to the distribution's Python; `python3` on PATH is often pyenv's."""
    system = tmp_path / "usr/bin"
    newest, older = interpreter(system / "python3.12"), interpreter(system / "python3.9")
    default = interpreter(system / "python3")
    interpreter(system / "python3.12-config")
    own, on_path = interpreter(tmp_path / "venv/bin/python"), interpreter(tmp_path / "pyenv/python3")

    found = candidate_interpreters(system_folder=system, own=own, search_path=[str(tmp_path / "pyenv")])

    assert [default, newest, older, own, on_path] == found


def test_two_names_of_one_interpreter_are_tried_once(tmp_path: Path):
    real = interpreter(tmp_path / "python3.11")
    (tmp_path / "python3").symlink_to(real)

    found = candidate_interpreters(system_folder=tmp_path, own=real, search_path=[str(tmp_path)])

    assert [str(tmp_path / "python3")] == found


def test_a_virtual_environment_is_not_taken_for_the_interpreter_it_links_to(tmp_path: Path):
    """It has other packages: one may have bcc where the other does not."""
    real = interpreter(tmp_path / "usr/bin/python3")
    virtual = tmp_path / "venv/bin/python"
    virtual.parent.mkdir(parents=True)
    virtual.symlink_to(real)

    found = candidate_interpreters(system_folder=tmp_path / "usr/bin", own=str(virtual), search_path=[])

    assert [real, str(virtual)] == found


def test_a_chosen_interpreter_is_the_only_one():
    assert ["/opt/python3"] == candidate_interpreters("/opt/python3")


def test_what_cannot_be_executed_is_left_out(tmp_path: Path):
    (tmp_path / "python3").write_text("no program")

    assert [] == candidate_interpreters(system_folder=tmp_path, own=str(tmp_path / "none"), search_path=[])
