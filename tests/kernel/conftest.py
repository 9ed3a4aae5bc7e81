import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_ebpf.probe.loader import Loaded, load
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.programs import Part, programs_of
from otel_ebpf.probe.socket_hooks import AUTO, SocketHooks, choose_hooks
from tests.kernel.contexts import ContextsWatched
from tests.kernel.probed import FORMS, FORMS_OF_INSTRUCTIONS
from tests.kernel.scene import Scene
from tests.kernel.tls_wire import TlsWatched
from tests.kernel.wire import FLAGS, Watched, Wire
from tests.services.bytecode import bytecode_folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without uprobes that the agent can use, nothing reads TLS or runtimes; `test_tls.py` says on which kernels that is right."""
    if not FORMS:
        needs = {"form", "seen_by", "followed", "goroutines", "callbacks", "promises"}
        left_out = [item for item in items if needs & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def hooks() -> Iterator[SocketHooks]:
    """What the agent would choose here, or what OTEL_EBPF_SOCKET_BACKEND asks the tests for."""
    hooks = choose_hooks(os.environ.get("OTEL_EBPF_SOCKET_BACKEND", AUTO))
    yield hooks
    hooks.close()


@pytest.fixture(scope="session")
def prepared(hooks: SocketHooks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedParts]:
    parts = PreparedParts(hooks.backend, FLAGS, cache_dir=bytecode_folder(tmp_path_factory))
    yield parts
    parts.close()


@pytest.fixture(scope="session")
def loaded_programs(hooks: SocketHooks, prepared: PreparedParts) -> Iterator[Loaded]:
    with load(prepared.artifact(Part.SOCKETS), programs_of(hooks.backend)) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def watched_programs(hooks: SocketHooks, loaded_programs: Loaded) -> Iterator[Watched]:
    watched = Watched(loaded_programs, hooks)
    yield watched
    watched.close()


@pytest.fixture
def watched(watched_programs: Watched) -> Watched:
    watched_programs.fresh()
    return watched_programs


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=["ipv4", "ipv6", "unix"])
def wire(request: pytest.FixtureRequest, watched: Watched, tmp_path: Path) -> Iterator[Wire]:
    made = Wire(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=shop", "-days", "30", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate, key


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form.name.lower())
def seen_by(request: pytest.FixtureRequest, prepared: PreparedParts, hooks: SocketHooks) -> Iterator[TlsWatched]:
    """Older kernels have fewer forms."""
    watched = TlsWatched(prepared, hooks, request.param)
    yield watched
    watched.close()


@pytest.fixture
def tls_watched(seen_by: TlsWatched) -> TlsWatched:
    seen_by.fresh()
    return seen_by


@pytest.fixture(scope="module", params=FORMS_OF_INSTRUCTIONS, ids=lambda form: form.name.lower())
def followed(request: pytest.FixtureRequest, prepared: PreparedParts, hooks: SocketHooks) -> Iterator[ContextsWatched]:
    """This process, whose contexts are followed."""
    watched = ContextsWatched(prepared, hooks, request.param)
    yield watched
    watched.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def scene(followed: ContextsWatched, tmp_path: Path, stack: ExitStack) -> Scene:
    followed.fresh()
    followed.follow(os.getpid())
    return Scene(followed, tmp_path, stack)
