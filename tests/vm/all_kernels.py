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

# Of the whole agent: one of each kind, for each takes a third of a minute emulated.
WHOLE_AGENT = (
    "test_servers.py::test_every_request_is_one_right_span[keep-alive-nginx]",
    "test_servers.py::test_every_request_is_one_right_span[keep-alive-http.server]",
    "test_servers.py::test_every_request_is_one_right_span[keep-alive-go]",
    "test_servers.py::test_every_request_is_one_right_span[close-node]",
    "test_servers.py::test_every_request_is_one_right_span[close-nginx-files]",
    "test_servers.py::test_first_request_of_a_service_that_starts_after_the_agent_is_seen[gunicorn-sync]",
    "test_servers.py::test_prefork_workers_are_one_service[gunicorn-gthread]",
    "test_clients.py::test_every_call_is_one_right_span[keep-alive-requests]",
    "test_clients.py::test_calls_over_a_unix_socket_are_seen[go]",
    "test_clients.py::test_reverse_proxy_gives_both_sides[keep-alive-unix]",
    "test_lineage.py::test_what_a_proxy_calls_is_linked_whatever_the_socket[one-each-ipv6]",
    "test_other_programs.py",
    "test_proxy_protocol.py::test_what_comes_behind_the_header_is_seen[plain-1]",
    "test_proxy_protocol.py::test_what_comes_behind_the_header_is_seen[plain-2]",
)
# And by uprobes.
WHOLE_AGENT_BY_UPROBES = (
    "test_servers.py::test_every_request_is_one_right_span[keep-alive-uvicorn-uvloop-tls]",
    "test_servers.py::test_every_request_is_one_right_span[keep-alive-gunicorn-gevent-tls]",
    "test_servers.py::test_every_request_is_one_right_span[close-go-tls]",
    "test_clients.py::test_every_call_over_tls_is_one_right_span[close-node]",
    "test_gnutls.py::test_every_call_by_gnutls_is_one_right_span[keep-alive-TLSv1.3]",
    "test_lookups.py::test_the_call_that_waited_for_a_name_says_so[requests]",
    "test_parents.py::test_every_call_is_the_child_of_the_request_that_caused_it[flask+httpx]",
    "test_parents_of_nginx.py",
    "test_proxy_protocol.py::test_what_comes_behind_the_header_is_seen[tls-1]",
    "test_proxy_protocol.py::test_what_comes_behind_the_header_is_seen[tls-2]",
    "test_not_visible.py::test_io_uring_is_seen_or_named_by_its_process_and_its_calls",
    "test_not_visible.py::test_a_32_bit_program_is_seen_or_named_by_its_process_and_its_calls",
)
TIMEOUT_SECONDS = 5400  # what compiles its own programs takes minutes of that, emulated


def tests_for(kernel: str) -> tuple[str, ...]:
    has_uprobes = kernel not in KERNELS or KERNELS[kernel].has_uprobes
    whole_agent = WHOLE_AGENT + (WHOLE_AGENT_BY_UPROBES if has_uprobes else ())
    return ("tests/kernel", *(f"tests/end_to_end/{name}" for name in whole_agent))


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
            tests = shlex.split(asked.tests) if asked.tests else tests_for(kernel)
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
