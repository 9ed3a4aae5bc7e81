"""The kernel tests, and some of the whole agent, on several kernels with either kind of hooks: `make test-kernels`.

In:   names of kernels; none: all of them, and the host's own
Out:  what the tests say, then a table; exit 0 when all have passed on all and none was skipped
Owns: nothing
"""

import argparse
import shlex
import sys
from collections.abc import Iterator

from otel_ebpf.probe.programs import SocketBackend
from otel_ebpf.probe.socket_hooks import choose_hooks
from tests.vm.kernels import KERNELS, KernelError
from tests.vm.suites import NATIVE, Outcome, run_tests

RIGHT_SPANS = "tests/end_to_end/test_servers.py::test_every_request_is_one_right_span"
TESTS = (
    "tests/kernel",
    *(f"{RIGHT_SPANS}[{case}]" for case in ("keep-alive-nginx", "keep-alive-http.server", "close-node")),
)
TIMEOUT_SECONDS = 5400  # what compiles its own programs takes minutes of that, emulated


def backends_of(kernel: str) -> Iterator[SocketBackend]:
    """All of Debian's kernels have kprobes; the host's own may not."""
    yield SocketBackend.TRACEPOINT
    hooks = choose_hooks() if kernel == NATIVE else None
    if hooks is not None:
        hooks.close()
    if hooks is None or hooks.backend is SocketBackend.KPROBE:
        yield SocketBackend.KPROBE


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kernels", nargs="*", choices=[[], NATIVE, *KERNELS], metavar="KERNEL")
    parser.add_argument("--hooks", choices=[backend.value for backend in SocketBackend], help="these alone")
    parser.add_argument("--tests", help="arguments for pytest, instead of those that belong here")
    asked = parser.parse_args()
    outcomes = []
    for kernel in asked.kernels or (NATIVE, *KERNELS):
        for backend in backends_of(kernel):
            if asked.hooks not in (None, backend.value):
                continue
            print(f"\n== {kernel}, {backend.value}", flush=True)
            tests = shlex.split(asked.tests) if asked.tests else TESTS
            try:
                outcomes.append(run_tests(kernel, backend, tests, timeout_seconds=TIMEOUT_SECONDS, is_shown=True))
            except KernelError as error:
                print(error, file=sys.stderr)
                outcomes.append(Outcome(kernel, "could not be had", backend, 0, 1, 0, 0, str(error)))
    print(f"\n{'kernel':12}{'release':32}{'hooks':12}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
    for one in outcomes:
        print(
            f"{one.kernel:12}{one.release:32}{one.backend.value:12}"
            f"{one.passed:8}{one.failed:8}{one.skipped:8}{one.seconds:9.0f}"
        )
    return 0 if all(one.is_good for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
