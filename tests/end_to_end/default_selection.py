"""Runs inside new PID and network namespaces: the agent with no target named, and two services for it to find.

In:   prefix of the ids, a folder
Out:  one line of JSON: the differences between spans and truth, and how many services there were
Owns: everything in these namespaces
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.agent import running_agent
from tests.end_to_end.sink import SERVER, http_sink
from tests.end_to_end.truth import belongs_to, differences
from tests.services.callers import send_all
from tests.services.processes import VENV_BIN
from tests.services.servers import calls_for, program, serving


def main() -> None:
    prefix, folder = sys.argv[1], Path(sys.argv[2])
    subprocess.run([program("ip"), "link", "set", "lo", "up"], check=True)
    with ExitStack() as ends:
        sink = ends.enter_context(http_sink())
        before = ends.enter_context(serving("go", folder / "go"))
        command = [str(VENV_BIN / "otel-ebpf"), "run"]
        ends.enter_context(running_agent(folder / "agent", sink, command=command))
        after = ends.enter_context(serving("http.server", folder / "http.server"))
        results = send_all("http.client", folder / "client-1", before, calls_for("go", f"{prefix}a"))
        results += send_all("http.client", folder / "client-2", after, calls_for("http.server", f"{prefix}b"))
        spans = sink.wait_for(len(results), belongs_to(prefix, SERVER))
        services = {span.resource["service.name"] for span in spans}
    print(json.dumps({"differences": differences(results, spans, SERVER), "servers": len(services)}))


if __name__ == "__main__":
    main()
