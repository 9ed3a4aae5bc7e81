"""Calls that the kernel breaks off."""

import errno

import pytest

from otel_ebpf.probe import bpf


class Kernel:
    """Breaks off so many calls, as when a signal comes; the next ones give a descriptor."""

    def __init__(self, broken_off: int, code: int = errno.EAGAIN) -> None:
        self.calls, self.broken_off, self.code = 0, broken_off, code

    def __call__(self, number: int, *arguments: int) -> int:
        self.calls += 1
        if self.calls <= self.broken_off:
            raise OSError(self.code, "no")
        return 7


def test_a_program_whose_verification_a_signal_broke_off_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(broken_off=3)
    monkeypatch.setattr(bpf, "_call", kernel)

    assert (7, "") == bpf.load_program(17, bytes(16))
    assert 4 == kernel.calls


@pytest.mark.parametrize(("code", "calls"), [(errno.EAGAIN, 10), (errno.EACCES, 1)])
def test_a_kernel_that_goes_on_refusing_is_believed(code: int, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(broken_off=100, code=code)
    monkeypatch.setattr(bpf, "_call", kernel)

    with pytest.raises(bpf.VerifierError) as refusal:
        bpf.load_program(17, bytes(16))

    assert (code, calls) == (refusal.value.errno, kernel.calls)
