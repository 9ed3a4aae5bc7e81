"""Go programs with TLS that run before the agent, are replaced on disk, or end while they are looked into."""

import http.client
import os
import re
import shutil
import ssl
import subprocess
from contextlib import closing
from pathlib import Path

from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.tls_survey import survey
from tests.end_to_end.agent import Agent
from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
from tests.end_to_end.truth import belongs_to, differences, target_of
from tests.services.certificates import session_certificates
from tests.services.plan import all_calls, make_call
from tests.services.processes import free_port, wait_until
from tests.services.servers import GO_HTTP, Running, certificate_files, serving_elsewhere
from tools.go_build import build


def copy_of_program(path: Path) -> Path:
    """One file after the other under the same name, as an upgrade does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(build(GO_HTTP), path.with_suffix(".new"))).rename(path)


def serve(stage: Stage, program: Path) -> Running:
    port = free_port()
    command = [str(program), "serve", "tcp", f"127.0.0.1:{port}", *certificate_files()]
    authority = session_certificates().authority
    folder = stage.new_folder("server")
    return stage.ends.enter_context(serving_elsewhere(command, folder, "127.0.0.1", port, authority=authority))


def ask(connection: http.client.HTTPSConnection, call_id: str) -> str:
    call = make_call(call_id, "GET", 200, 5)
    connection.request(call.method, call.target)
    assert connection.getresponse().read() == b"xxxxx"
    return call.target


def test_a_program_and_a_connection_that_are_older_than_the_agent_are_read(prefix: str, stage: Stage) -> None:
    """The object names the socket itself: no beginning has to be seen. The program's file is another one by now."""
    program = stage.folder / "bin" / "go_http"
    server = serve(stage, copy_of_program(program))
    copy_of_program(program)
    assert os.readlink(f"/proc/{server.pid}/exe") == f"{program} (deleted)"
    context = ssl.create_default_context(cafile=str(server.authority))
    with closing(http.client.HTTPSConnection(server.host, server.port, context=context, timeout=60)) as older:
        ask(older, f"{prefix}before")
        stage.agent(OTEL_EBPF_TARGET_PID=server.pid)

        targets = [ask(older, f"{prefix}{number}") for number in range(3)]
        results = stage.client("http.client", server, all_calls(f"{prefix}n")).send()

        spans = stage.sink.wait_for(len(targets) + len(results), belongs_to(prefix))
    of_older = [span for span in spans if target_of(span) in targets]
    assert [(SERVER, 200, "https")] * 3 == [
        (span.kind, span.attributes["http.response.status_code"], span.attributes["url.scheme"]) for span in of_older
    ]
    assert sorted(targets) == sorted(map(target_of, of_older))
    assert [] == differences(results, [span for span in spans if span not in of_older], SERVER)


def test_programs_that_end_while_they_are_looked_into_leave_nothing(prefix: str, stage: Stage) -> None:
    """Each has a file that the agent does not know. A message at most; one that lives on is read."""
    own = stage.folder / "bin"
    server = serve(stage, copy_of_program(own / "served"))
    client = stage.client("go", server, all_calls(prefix))
    agent = stage.agent(OTEL_EBPF_TARGET_PID=f"{server.pid},{client.pid}", OTEL_EBPF_AUTO_TARGET_EXE=f"{own}/*")
    before = held_by(agent)
    for number in range(8):
        program = copy_of_program(own / f"short{number}")
        assert 1 == subprocess.run([program], stderr=subprocess.DEVNULL, timeout=60, check=False).returncode

    results = client.send()

    spans = stage.sink.wait_for(2 * len(results), belongs_to(prefix))
    for kind in (SERVER, CLIENT):
        assert [] == differences(results, [span for span in spans if span.kind == kind], kind)
    wait_until(lambda: held_by(agent) <= before, f"the probe holds {before} files again")
    assert "Traceback" not in agent.messages


def test_check_says_how_a_go_program_is_probed(stage: Stage) -> None:
    """Its crypto/tls, by the version of Go, beside the libraries of others."""
    program = copy_of_program(stage.folder / "bin" / "go_http")
    server = serve(stage, program)

    (found,) = survey([server.pid], Procfs())

    assert (str(program), True) == (found.path, found.is_read)
    assert re.match(r"crypto/tls of Go 1\.\d\d: probes where the kernel emulates the instruction", found.detail)


def held_by(agent: Agent) -> int:
    """What the probe has open: attachments are such."""
    return len(os.listdir(f"/proc/{agent.probe_pid}/fd"))
