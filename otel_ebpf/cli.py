"""The command `otel-ebpf`: reads the environment, calls the agent, turns errors into text and an exit status.

In:   arguments and os.environ
Out:  text for people; 0, or the exit status of the error (errors.py)
Owns: the form of every message; the only reader of the process's environment

Nothing but the standard library is imported before `run` has split itself in two, so the privileged half stays small:
what a command needs is imported when it is called.
"""

import argparse
import os
import socket
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from otel_ebpf import __version__
from otel_ebpf.config import SETTINGS, Settings
from otel_ebpf.errors import AgentError, PreflightError, SettingsError, error_text, printable
from otel_ebpf.otlp_settings import OtlpSettings
from otel_ebpf.records.kinds import ServiceIdentity
from otel_ebpf.setting_values import PortRange

REACH_TIMEOUT_S = 2.0
STATUS_INTERRUPTED = 130  # as shells report the end by SIGINT
_CHECK_HINT = "`otel-ebpf check` lists everything this machine still lacks."
_HELP_HINT = "`otel-ebpf --help` lists every setting."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "run" and options.record_redacted and not options.record:
        parser.error("--record-redacted says how to record: name a file with --record")
    return exit_status_of(lambda: _dispatch(options), options.command)


def exit_status_of(action: Callable[[], int], command: str = "run") -> int:
    """What the action returns, or the status of the error that ended it, after telling it."""
    try:
        return action()
    except AgentError as error:
        print(error_text(error, *hints(error, command)), file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(options: argparse.Namespace) -> int:
    settings, warnings = Settings.from_environ(os.environ)
    for warning in warnings:
        print(f"otel-ebpf: {warning}", file=sys.stderr)
    if options.command == "run":
        return run(settings, options.record, options.record_redacted)
    if options.command == "replay":
        # What `run` does with spans decides there whether they are printed too; here they go nowhere else.
        form = settings.trace_printer if os.environ.get("OTEL_EBPF_TRACE_PRINTER") else "text"
        return replay(options.file, form, options.spans)
    return status(settings) if options.command == "status" else check(settings)


def run(settings: Settings, record_to: Path | None = None, is_redacted: bool = False) -> int:
    if settings.is_disabled:
        print("otel-ebpf: OTEL_SDK_DISABLED=true: nothing is watched.", file=sys.stderr)
        return 0
    from otel_ebpf import supervisor

    return supervisor.run(settings, record_to, is_redacted)


def replay(recording: Path, form: str, spans_to: Path | None = None) -> int:
    """What `run` made of the same, printed; needs no kernel and no root."""
    from otel_ebpf.export.console import Console
    from otel_ebpf.export.replay import Replay, SpanFile
    from otel_ebpf.records.decode import DecodeError

    printer = Console(form, sys.stdout, sys.stdout.isatty()) if form != "disabled" else None
    spans = SpanFile() if spans_to is not None else None
    try:
        with recording.open("rb") as file:
            replayed = Replay(file, printer, spans)
            replayed.run()
        if spans_to is not None and spans is not None:
            spans_to.write_bytes(spans.encode(replayed.version))
    except DecodeError as error:
        raise AgentError(f"cannot replay {recording}: {error}", "Use the agent that it was recorded with.") from error
    except OSError as error:
        raise AgentError(f"cannot replay {recording}: {error.filename or 'it'}: {error.strerror}") from error
    if replayed.is_cut:
        print(
            f"otel-ebpf: the recording is cut off after {replayed.whole_bytes} bytes: its agent did not end by itself",
            file=sys.stderr,
        )
    for line in replayed.account_lines():
        print(f"otel-ebpf: {line}", file=sys.stderr)
    return 0


def status(settings: Settings) -> int:
    """What the running agent has seen, service by service."""
    from otel_ebpf.status_socket import StatusUnavailableError, ask_status
    from otel_ebpf.status_text import status_lines

    if settings.status_socket is None:
        raise StatusUnavailableError(
            "no agent can be asked: OTEL_EBPF_STATUS_SOCKET is none", "Set the path that the agent has."
        )
    document = ask_status(settings.status_socket)
    try:
        print("\n".join(status_lines(document)), flush=True)
    except ValueError as error:
        raise StatusUnavailableError(f"what listens at {settings.status_socket} is no agent: {error}") from error
    return 0


def check(settings: Settings) -> int:
    """0 when `run` could start, else the exit status that it would end with."""
    from otel_ebpf.probe import preflight

    host = preflight.Host(
        bcc_python=settings.bcc_python,
        cache_dir=Path(settings.cache_folder),
        socket_backend=settings.socket_backend,
        parents=settings.parents,
        node_parents=settings.node_parents,
    )
    findings = preflight.examine(host)
    is_ready = all(finding.ok for finding in findings if finding.required)
    print("This machine")
    for finding in findings:
        word = "ok" if finding.ok else "MISSING" if finding.required else "without"
        print(f"  {word:8}{finding.name}: {finding.detail}")
        if not finding.ok and finding.remedy:
            print(f"          {finding.remedy}")
    _print_export(settings)
    _print_services(settings)
    print("\n`otel-ebpf run` can start here." if is_ready else "\n`otel-ebpf run` cannot start: see MISSING above.")
    sys.stdout.flush()
    return 0 if is_ready else PreflightError.exit_code


def hints(error: AgentError, command: str) -> list[str]:
    """Which command tells more."""
    if isinstance(error, SettingsError):
        return [_HELP_HINT]
    return [_CHECK_HINT] if command == "run" else []


def unreachable(otlp: OtlpSettings, timeout_s: float = REACH_TIMEOUT_S) -> str | None:
    """Why no connection to the collector, or to its proxy, can be made, or None. No foreign byte is read as root."""
    parts = urlsplit(otlp.proxy or otlp.endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout_s).close()
    except (OSError, UnicodeError) as error:  # the second: a host name that no name can be
        return getattr(error, "strerror", None) or str(error)
    return None


def _print_export(settings: Settings) -> None:
    print("\nWhere spans go")
    if settings.otlp is None:
        print("  without collector: OTEL_EXPORTER_OTLP_ENDPOINT is not set")
    else:
        why = unreachable(settings.otlp)
        where = "in memory" if settings.spool_folder is None else f"in {settings.spool_folder}"
        state = "reachable" if why is None else f"not reachable now: {why}; spans wait {where} until it is"
        print(
            f"  {'ok' if why is None else 'MISSING':8}collector at {settings.otlp.endpoint_for_people} by {settings.otlp.protocol}: {state}"
        )
    if settings.trace_printer != "disabled":
        print(f"  ok      standard output, as {settings.trace_printer}")


def _print_services(settings: Settings) -> None:
    """What `run` would watch at this moment."""
    from otel_ebpf.probe.discovery import Discovery
    from otel_ebpf.probe.identity import identify
    from otel_ebpf.probe.procfs import Procfs
    from otel_ebpf.probe.selection import Selection

    discovery = Discovery(Selection.from_settings(settings), [os.getpid()])
    targets = discovery.scan()
    print("\nServices it would watch")
    if not targets:
        print(f"  none now: no process {_criteria(settings)}; those that start later are found then")
    for service_pid in sorted({target.service_pid for target in targets}):
        identity = identify(service_pid, Procfs())
        if identity is None:
            continue
        count = sum(target.service_pid == service_pid for target in targets)
        processes = f", {count} processes" if count > 1 else ""
        ports = ", ".join(map(str, identity.listening_ports)) or "none"
        why = discovery.targets[service_pid].why if service_pid in discovery.targets else "one of its processes is"
        print(f"  {service_pid:>7} {_service_name(identity)} ports {ports}{processes} ({why})")
    if os.geteuid() == 0:
        _print_libraries(settings, [target.pid for target in targets])


def _print_libraries(settings: Settings, pids: list[int]) -> None:
    from otel_ebpf.probe.lookup_survey import survey_lookups
    from otel_ebpf.probe.procfs import Procfs
    from otel_ebpf.probe.tls_survey import survey

    for is_wanted, title, look in (
        (settings.watches_tls, "TLS libraries that they have loaded", survey),
        (settings.watches_lookups, "C libraries that look names up for them", survey_lookups),
    ):
        libraries = look(pids, Procfs()) if is_wanted else []
        if libraries:
            print(f"\n{title}")
        for library in libraries:
            print(f"  {'ok' if library.is_read else 'without':8}{printable(library.path)}: {library.detail}")


def _service_name(identity: ServiceIdentity) -> str:
    from otel_ebpf.telemetry.resource import HostFacts, resource_attributes

    name = str(resource_attributes(identity, HostFacts("", "", "", ""), __version__)["service.name"])
    return printable(name)


def _criteria(settings: Settings) -> str:
    if not (settings.open_ports or settings.exe_globs or settings.target_pids):
        return "listens on TCP"
    asked = [
        f"listens on {_ports_text(settings.open_ports)}" if settings.open_ports else "",
        f"runs {' or '.join(settings.exe_globs)}" if settings.exe_globs else "",
        f"has the number {' or '.join(map(str, settings.target_pids))}" if settings.target_pids else "",
    ]
    return " or ".join(text for text in asked if text)


def _ports_text(ranges: Iterable[PortRange]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="otel-ebpf",
        description="OpenTelemetry spans for the HTTP services of this machine, by eBPF: no code change, no restart.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"otel-ebpf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | check | status | replay")
    run_parser = commands.add_parser("run", help="watch services and export spans, until interrupted")
    run_parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write what came out of the kernel to a new file, for `replay`"
    )
    run_parser.add_argument(
        "--record-redacted",
        action="store_true",
        help="leave out of it bodies, values in queries, and values of headers that the agent does not read",
    )
    commands.add_parser("check", help="list what this machine has and lacks, and what would be watched")
    commands.add_parser("status", help="ask the running agent: requests, spans and losses of each service")
    replay_parser = commands.add_parser("replay", help="make the same spans of a recording, and print them")
    replay_parser.add_argument("file", type=Path, metavar="FILE", help="written by `run --record FILE`")
    replay_parser.add_argument(
        "--spans", type=Path, metavar="FILE", help="write the spans there, as one OTLP ExportTraceServiceRequest"
    )
    return parser


def _settings_help() -> str:
    lines = ["settings, from the environment:"]
    for setting in SETTINGS:
        lines.append("  " + ", ".join(setting.names))
        default = f" Default: {setting.default}." if setting.default else ""
        text = f"{setting.help.replace('`', '')}.{default}"
        lines.extend(textwrap.wrap(text, width=100, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
