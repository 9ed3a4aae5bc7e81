"""Which processes the user asked for."""

import pytest

from otel_ebpf.probe.selection import Selection

NGINX = b"/usr/sbin/nginx"


def selected(selection: Selection, pid: int, executable: bytes | None, ports: set[int]) -> str | None:
    return selection.reason_by_program(pid, executable) or selection.reason_by_port(ports)


def test_without_criteria_every_listener_is_selected_and_nobody_else() -> None:
    assert selected(Selection(), 1, NGINX, {65535}) == "listens on port 65535"
    assert selected(Selection(), 1, NGINX, set()) is None


@pytest.mark.parametrize(("port", "is_selected"), [(79, False), (80, True), (81, False), (8000, True), (8999, True)])
def test_ranges_include_both_ends(port: int, is_selected: bool) -> None:
    selection = Selection(open_ports=((80, 80), (8000, 8999)))

    assert is_selected == (selection.reason_by_port({port}) is not None)


def test_the_reason_names_the_lowest_port_that_matches() -> None:
    assert Selection(open_ports=((80, 90),)).reason_by_port({443, 81, 80}) == "listens on port 80"


@pytest.mark.parametrize(
    ("glob", "is_selected"),
    [
        ("/usr/sbin/nginx", True),
        ("*/nginx", True),
        ("*sbin*", True),  # as in OBI, * stands for slashes too
        ("nginx", True),  # without a slash: the file name
        ("ngin?", True),
        ("NGINX", False),
        ("/nginx", False),
        ("sbin/nginx", False),
        ("ngin", False),
    ],
)
def test_globs_are_held_against_the_whole_path_or_the_file_name(glob: str, is_selected: bool) -> None:
    assert is_selected == (Selection(exe_globs=(glob,)).reason_by_program(1, NGINX) is not None)


def test_a_path_that_is_no_utf8_matches_as_any_other() -> None:
    assert Selection(exe_globs=("/srv/*",)).reason_by_program(1, b"/srv/\xff\n") is not None


def test_an_executable_that_cannot_be_read_matches_no_glob() -> None:
    assert Selection(exe_globs=("*",)).reason_by_program(1, None) is None


def test_one_criterion_of_several_is_enough() -> None:
    selection = Selection(open_ports=((80, 80),), exe_globs=("*/nginx",), pids=frozenset({7}))

    assert selected(selection, 1, b"/bin/x", {80}) == "listens on port 80"
    assert selected(selection, 1, NGINX, set()) == "executable /usr/sbin/nginx matches */nginx"
    assert selected(selection, 7, b"/bin/x", set()) == "named by OTEL_EBPF_TARGET_PID"
    assert selected(selection, 1, b"/bin/x", {81}) is None


def test_a_criterion_that_is_no_port_ends_the_selection_by_port() -> None:
    assert Selection(pids=frozenset({7})).port_ranges == ()
    assert selected(Selection(exe_globs=("*/nginx",)), 1, b"/bin/x", {80}) is None
