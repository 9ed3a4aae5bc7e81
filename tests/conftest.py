"""Which tests run, and what is common to all.

With OTEL_EBPF_TESTS=all (as `make test` sets it) everything runs, and what a test lacks is its failure. Without it,
tests that need root are left out for a user who is not root, and only for one.
"""

import os
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("steady", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

NEEDS_ROOT = ("kernel", "end_to_end")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # The folder decides, so that a new file cannot be forgotten.
        for name in NEEDS_ROOT:
            if name in Path(item.path).parts:
                item.add_marker(name)
    if os.geteuid() == 0 or os.environ.get("OTEL_EBPF_TESTS") == "all":
        return
    rootless = [item for item in items if not any(item.get_closest_marker(name) for name in NEEDS_ROOT)]
    left_out = [item for item in items if item not in rootless]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = rootless


@pytest.fixture
def prefix() -> str:
    """Begins the ids of one test's requests, so that no other's are taken for them."""
    return f"t{uuid.uuid4().hex[:10]}n"
