"""Facts about this host."""

import os
from pathlib import Path

from otel_ebpf.export.host import read_host_facts, read_machine_id


def test_host_is_this_one():
    facts = read_host_facts()

    assert (os.uname().nodename, "linux") == (facts.name, facts.os_type)
    assert "x86_64" != facts.arch


def test_machine_id_is_the_first_that_can_be_read(tmp_path: Path):
    """A container often has none, or an empty file."""
    empty, bad, good = tmp_path / "empty", tmp_path / "bad", tmp_path / "good"
    empty.write_text("\n")
    bad.write_bytes(b"\xff")
    good.write_text("0123456789abcdef\n")
    missing = str(tmp_path / "missing")

    assert "0123456789abcdef" == read_machine_id((missing, str(empty), str(bad), str(good)))
    assert "" == read_machine_id((missing,))
