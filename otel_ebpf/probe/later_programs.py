"""Programs on uprobes are loaded when the first of their group is to be attached: until then they cost a start nothing.

In:   their bytecode, which may still be compiled; the form that this kernel attaches in
Out:  programs and maps in Loaded; ProbeError, once and for all, for whoever asks for one that cannot be had
Owns: nothing

Between the bytecode and the verifier that takes a second, so who asks does it patiently: see ProbedFiles.
"""

from collections.abc import Callable

from otel_ebpf.errors import ProbeError
from otel_ebpf.probe.artifact import Artifact
from otel_ebpf.probe.loader import Loaded, load_group
from otel_ebpf.probe.programs import ProgramGroup
from otel_ebpf.probe.uprobes import UprobeForm


def offer(loaded: Loaded, form: UprobeForm, group: ProgramGroup, artifact: Callable[[], Artifact]) -> None:
    """From now on `loaded.program` has those of this group; `artifact` waits for what they are loaded from."""
    failures: list[ProbeError] = []

    def load_now() -> None:
        if failures:
            raise failures[0]
        try:
            load_group(artifact(), loaded, form, group)
        except ProbeError as error:
            failures.append(error)
            raise

    loaded.later |= {row.function: load_now for row in group.rows}
