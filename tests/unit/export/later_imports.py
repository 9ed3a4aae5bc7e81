"""A program: builds a sender, gives up all rights to files, sends, and says what it still wanted to read.

Arguments: protocol, endpoint of a collector, endpoint of none, an empty folder. Prints one JSON object.
"""

import json
import os
import stat
import sys
import time

from otel_ebpf.config import OtlpSettings
from otel_ebpf.export.otlp import SpanEncoder, encode_resource
from otel_ebpf.export.sender import Sender, SenderOptions
from tests.unit.telemetry.examples import exchange, span_of


def sender_for(protocol: str, endpoint: str) -> Sender:
    settings = OtlpSettings(
        endpoint=endpoint, protocol=protocol, headers=(), timeout_ms=2000, compression="gzip", certificate=None,
        client_key=None, client_certificate=None, insecure=True,
    )  # fmt: skip
    return Sender(settings, "1", lambda message: None, SenderOptions(schedule_delay_ms=10))


def drop_rights(root: str) -> None:
    """An empty root folder but for what gRPC takes random numbers from, and nobody: no other file can be opened."""
    os.chmod(root, 0o755)
    os.mkdir(f"{root}/dev")
    os.mknod(f"{root}/dev/urandom", stat.S_IFCHR | 0o666, os.makedev(1, 9))
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def main() -> None:
    protocol, taking, absent, folder = sys.argv[1:]
    senders = [sender_for(protocol, taking), sender_for(protocol, absent)]
    span = SpanEncoder().encode_span(span_of(exchange()))
    resource = encode_resource({"service.name": "x"})
    loaded = set(sys.modules)
    failures: list[str] = []
    sys.meta_path.insert(0, Recorder(failures))
    if os.geteuid() == 0:  # for others the imports alone tell
        drop_rights(folder)
    for sender in senders:
        sender.start()
        sender.queue.put(resource, [span])
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and not (senders[0].counts().exported and senders[1]._failures_in_row):
        time.sleep(0.01)
    endpoints = len(senders[0].own_endpoints())
    counts = [sender.stop(1.0) for sender in senders]
    imported = sorted(set(sys.modules) - loaded)
    print(json.dumps({"counts": counts, "imported": imported, "wanted": failures, "endpoints": endpoints}))


class Recorder:
    """First on sys.meta_path: sees every import of a module that is not loaded."""

    def __init__(self, wanted: list[str]) -> None:
        self._wanted = wanted

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        self._wanted.append(name)


if __name__ == "__main__":
    main()
