"""libFuzzer in a process of its own: `python -m tests.fuzz.child TARGET` and libFuzzer's own arguments.

Only the agent's code is instrumented. It is so while it is imported, so nothing of it may be imported before.
"""

import shlex
import sys

import atheris


def main() -> None:
    name = sys.argv.pop(1)
    sys.argv[0] = shlex.join([sys.executable, "-m", "tests.fuzz.child", name])  # how libFuzzer runs this again to merge
    with atheris.instrument_imports(include=["otel_ebpf"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup(sys.argv, TARGETS[name].fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
