"""Which hooks the agents of the tests have: OTEL_EBPF_SOCKET_BACKEND in the environment of the tests, else what they choose."""

import os

from otel_ebpf.probe.programs import SocketBackend
from otel_ebpf.probe.socket_hooks import AUTO, TEXTS, choose_hooks

SOCKET_BACKEND = "OTEL_EBPF_SOCKET_BACKEND"


def backend_in_use() -> SocketBackend:
    hooks = choose_hooks(os.environ.get(SOCKET_BACKEND, AUTO))
    hooks.close()
    return hooks.backend


def hooks_in_use() -> str:
    """As the agent names them."""
    return TEXTS[backend_in_use()]
