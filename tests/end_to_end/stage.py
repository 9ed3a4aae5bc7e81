"""The stage of an end-to-end test: a collector, the agent, real services and clients.

In:   a folder
Out:  whatever a test starts on it, running
Owns: all of that: the stage ends it in the opposite order, and fails the test when the agent does not stop cleanly
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.agent import Agent, running_agent
from tests.end_to_end.sink import Sink
from tests.services.callers import Calling, calling
from tests.services.plan import Call
from tests.services.servers import Running, go_serving, go_tls_serving, proxying, serving
from tools.go_build import Kind


@dataclass
class Stage:
    folder: Path
    bytecode_cache: Path
    sink: Sink
    ends: ExitStack
    started: int = 0

    def new_folder(self, what: str) -> Path:
        self.started += 1
        return self.folder / f"{self.started}-{what}"

    def server(self, name: str, *, port: int = 0, **env: str) -> Running:
        """One of tests/services/servers.py."""
        return self.ends.enter_context(serving(name, self.new_folder(name), port=port, **env))

    def go_server(self, kind: str) -> Running:
        """On `ipv4`, `ipv6` or a `unix` socket."""
        return self.ends.enter_context(go_serving(kind, self.new_folder(kind)))

    def go_tls_server(self, kind: Kind, **env: str) -> Running:
        return self.ends.enter_context(go_tls_serving(self.new_folder("go-tls"), kind, **env))

    def proxy(self, behind: Running, *, keep_alive: bool) -> Running:
        """nginx in front of a running server."""
        return self.ends.enter_context(proxying(self.new_folder("proxy"), behind, keep_alive=keep_alive))

    def client(self, name: str, where: Running, calls: list[Call], **options: Any) -> Calling:
        """One of tests/services/callers.py, which waits for `send`."""
        return self.ends.enter_context(calling(name, self.new_folder(name), where, calls, **options))

    def agent(
        self,
        *,
        is_ended_by_test: bool = False,
        sink: Sink | None = None,
        command: list[str] | None = None,
        **settings: object,
    ) -> Agent:
        """agent(OTEL_EBPF_OPEN_PORT=8080), exporting to this stage's sink."""
        texts = {
            "OTEL_EBPF_CACHE_DIR": str(self.bytecode_cache),
            **{name: str(value) for name, value in settings.items()},
        }
        folder = self.new_folder("agent")
        running = running_agent(folder, sink or self.sink, command=command, is_ended_by_test=is_ended_by_test, **texts)
        return self.ends.enter_context(running)
