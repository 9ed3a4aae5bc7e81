"""`otel-ebpf run` as on a kernel that has no better form of uprobes: `python tests/bench/agent_of_form.py multi`."""

import sys

from otel_ebpf import cli, supervisor
from otel_ebpf.probe.uprobes import UprobeForm


def main() -> int:
    form = UprobeForm[sys.argv[1].upper()]
    supervisor.available_forms = lambda: iter([form])  # type: ignore[attr-defined]
    return cli.main(["run"])


if __name__ == "__main__":
    sys.exit(main())
