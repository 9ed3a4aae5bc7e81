"""What the senders still need once its process may read nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from otel_ebpf.export.sender import SendCounts
from tests.unit.export.collectors import free_port, grpc_collector, http_collector


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_sender_works_without_access_to_any_file(protocol: str, tmp_path: Path):
    """Sends, fails, lists its connections and stops, having imported nothing more; for root in an empty root folder."""
    with http_collector() as over_http, grpc_collector() as over_grpc:
        taking = over_grpc if protocol == "grpc" else over_http
        program = [sys.executable, "-m", "tests.unit.export.later_imports"]
        absent = f"http://127.0.0.1:{free_port()}/v1/traces"
        done = subprocess.run(
            [*program, protocol, taking.endpoint, absent, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        report = json.loads(done.stdout)

    assert [SendCounts(1, 0, 0, 0), SendCounts(0, 0, 0, failed=1)] == [SendCounts(*row) for row in report["counts"]]
    assert report["points"] >= 1  # with what psutil finds, where there is a /proc
    assert [
        "HTTP/1.1 200 OK # EOF",
        "HTTP/1.1 200 OK http_server_request_duration_seconds_sum{http_request_method",
    ] == [page.partition('="')[0] for page in report["pages"]]
    assert ([], []) == (report["imported"], report["wanted"])
    assert report["endpoints"] > 0
