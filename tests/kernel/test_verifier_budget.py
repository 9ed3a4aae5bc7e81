"""How much the verifier has to look at: older kernels look at far more, and refuse above a million instructions."""

import pytest

from otel_ebpf.probe import bpf
from otel_ebpf.probe.loader import Loaded, load, load_group
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import UPROBE_GROUPS, Part, programs_of
from otel_ebpf.probe.socket_hooks import SocketHooks
from tests.kernel.probed import FORMS

pytestmark = pytest.mark.kernel

# 6.1 and 5.10 verify on_sys_exit with 5 to 6 times the instructions that 6.12 and 6.18 need.
MOST_INSTRUCTIONS = 120_000


def too_much(loaded: Loaded) -> dict[str, int | None]:
    """Kernels before 5.16 do not tell: there it shows by itself, in that they have loaded all of them."""
    verified = {name: bpf.program_info(fd).verified_instructions for name, fd in loaded.programs.items()}
    if set(verified.values()) == {None}:
        return {}
    return {name: count for name, count in verified.items() if not 0 < (count or 0) < MOST_INSTRUCTIONS}


def test_every_program_leaves_older_verifiers_their_room(loaded_programs: Loaded):
    assert {} == too_much(loaded_programs)


def test_so_does_every_program_on_uprobes(prepared: PreparedParts, hooks: SocketHooks):
    """In every form that this kernel has."""
    found = {}
    for form in FORMS:
        with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
            for group in UPROBE_GROUPS:
                load_group(prepared.artifact(Part.UPROBES), loaded, form, group)
            found[form] = too_much(loaded)

    assert {form: {} for form in FORMS} == found
