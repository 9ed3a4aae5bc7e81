"""The programs on an older kernel than this host's, in a guest. `make test-kernels` does more, on several."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from otel_ebpf.probe.programs import SocketBackend
from tests.services.processes import children_of
from tests.vm.guest import GuestError, run_in_guest
from tests.vm.image import types_of
from tests.vm.kernels import Kernel, find_kernel
from tests.vm.suites import run_tests

KERNEL = "6.1-cloud"
SECONDS_FOR_A_COMMAND = 300
SECONDS_FOR_THE_TESTS = 1200  # beside everything else that is tested meanwhile

PYTHON_SERVICE = "tests/end_to_end/test_servers.py::test_every_request_is_one_right_span[keep-alive-http.server]"

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return find_kernel(KERNEL)


def said_in_guest(kernel: Kernel, script: str, status: int = 0) -> str:
    with tempfile.TemporaryFile() as output:
        assert status == run_in_guest(
            kernel, ["sh", "-c", script], timeout_seconds=SECONDS_FOR_A_COMMAND, output=output
        )
        output.seek(0)
        return output.read().decode()


def test_a_guest_cannot_change_the_host(kernel: Kernel, tmp_path: Path):
    """What it writes goes into its memory; and the host's files are served read-only, whatever root does in the guest."""
    (tmp_path / "file").write_text("host\n")
    script = f"""
        echo guest > {tmp_path}/file && cat {tmp_path}/file
        mount -t virtiofs -o rw host /mnt && echo guest > /mnt{tmp_path}/file
        cat /mnt{tmp_path}/file
        exit 7
    """

    said = said_in_guest(kernel, script, status=7).splitlines()

    assert ("guest", "host") == (said[0], said[-1]), said
    assert "host\n" == (tmp_path / "file").read_text()


def test_what_is_compiled_here_is_for_the_kernel_of_the_guest(kernel: Kernel):
    types = types_of(kernel)

    said = said_in_guest(kernel, "uname -r; uname -v; uname -m; sha256sum < /sys/kernel/btf/vmlinux")

    assert types.btf is not None
    assert [*types.kernel, f"{hashlib.sha256(types.btf).hexdigest()}  -"] == said.splitlines()


def test_nothing_is_left_of_a_guest_that_does_not_end(kernel: Kernel, monkeypatch: pytest.MonkeyPatch):
    before = set(children_of(os.getpid()))

    with tempfile.TemporaryDirectory(prefix="otel-ebpf-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        with pytest.raises(GuestError, match="no end within 15 s"):
            run_in_guest(kernel, ["sleep", "infinity"], timeout_seconds=15)
        assert [] == list(Path(folder).iterdir())

    assert set(children_of(os.getpid())) <= before


# This host's hooks are tested on this host: there it is enough that the older verifier takes their programs, and that they read.
@pytest.mark.parametrize(
    ("backend", "tests", "fewest"),
    [
        # What differs by addresses alone, and cuts of heads and bodies by the hundred, `make test-kernels` has.
        # A service in Python is attached to by kprobes once more, when it is known to be one.
        (
            SocketBackend.KPROBE,
            ["tests/kernel", PYTHON_SERVICE, "-k", "not ipv6 and not hard_http1 and not test_heads"],
            300,
        ),
        (
            SocketBackend.TRACEPOINT,
            [
                "tests/kernel/test_exchanges_on_the_wire.py",
                "tests/kernel/test_other_ways.py",
            ],
            50,
        ),
    ],
    ids=["kprobe", "tracepoint"],
)
def test_the_kernel_tests_pass_on_linux_6_1(backend: SocketBackend, tests: list[str], fewest: int):
    """Those that compile something of their own take too long there. One of them says that the hooks are those asked for."""
    outcome = run_tests(KERNEL, backend, [*tests, "-m", "not compiles"], timeout_seconds=SECONDS_FOR_THE_TESTS)

    assert (0, 0) == (outcome.failed, outcome.skipped), outcome.said
    assert outcome.passed >= fewest, outcome.said
