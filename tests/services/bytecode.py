"""Where a run of tests keeps compiled programs.

In:   OTEL_EBPF_TESTS_BYTECODE, which tests/vm sets: a folder in which the host has compiled for its guest
Out:  that folder, else a new one
Owns: nothing
"""

import os
from pathlib import Path

import pytest

SETTING = "OTEL_EBPF_TESTS_BYTECODE"


def bytecode_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get(SETTING)
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("bytecode")
    folder.chmod(0o700)
    return folder
