"""What tests/vm makes of a guest's words; the guests themselves are in tests/end_to_end/test_other_kernels.py."""

import struct

import pytest

from otel_ebpf.probe.kernel_types import KernelName
from tests.vm.image import SECTOR_BYTES, VERSION_AT, name_of
from tests.vm.suites import counts_of


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("....\n635 passed in 334.07s (0:05:34)\n", (635, 0, 0)),
        ("1 failed, 613 passed, 21 skipped, 2 errors in 256.36s\n", (613, 3, 21)),
        ("575 passed, 30 deselected in 99.00s\n", (575, 0, 0)),
        ("no tests ran in 0.01s\n", (0, 0, 0)),
        ("72 passed in 1.0s\nno end within 600 s", (0, 1, 0)),
        ("", (0, 1, 0)),
    ],
)
def test_what_a_run_says_last_is_what_came_of_it(said: str, expected: tuple[int, int, int]):
    """One that did not come to its end has failed, whatever it said before."""
    assert expected == counts_of(said)


def test_an_image_names_its_kernel_as_uname_will():
    image = bytearray(2 * SECTOR_BYTES)
    struct.pack_into("<H", image, VERSION_AT, 64)
    text = b"6.1.0-32-amd64 (builder@host) #1 SMP PREEMPT_DYNAMIC Debian 6.1.129-1 (2025-03-06)\0"
    image[SECTOR_BYTES + 64 : SECTOR_BYTES + 64 + len(text)] = text

    expected = KernelName("6.1.0-32-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.129-1 (2025-03-06)", "x86_64")
    assert expected == name_of(bytes(image))
