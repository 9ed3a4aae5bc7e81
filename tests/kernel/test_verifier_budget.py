"""How much the verifier has to look at: older kernels look at far more, and refuse above a million instructions."""

import pytest

from otel_ebpf.probe import bpf
from otel_ebpf.probe.loader import Loaded

pytestmark = pytest.mark.kernel

# 6.1 and 5.10 verify on_sys_exit with 5 to 6 times the instructions that 6.12 and 6.18 need.
MOST_INSTRUCTIONS = 120_000


def test_every_program_leaves_older_verifiers_their_room(loaded_programs: Loaded):
    """Kernels before 5.16 do not tell: there it shows by itself, in that they have loaded all of them."""
    verified = {name: bpf.program_info(fd).verified_instructions for name, fd in loaded_programs.programs.items()}
    if set(verified.values()) != {None}:
        assert {} == {name: count for name, count in verified.items() if not 0 < (count or 0) < MOST_INSTRUCTIONS}
