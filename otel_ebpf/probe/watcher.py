"""The probe at work: events of the kernel in, the map of targets and the frames to the exporter out.

In:   process events, signals, the state of the exporter
Out:  entries of the map `targets`; identities and counters as frames
Owns: the attachments, while `run` lasts

It never sees a byte of the network: those go from the kernel to the exporter through shared memory.
"""

import select
import socket
import sys
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from operator import or_
from typing import Protocol

from otel_ebpf.errors import AgentError, PeerLostError
from otel_ebpf.probe.attachments import Attachments
from otel_ebpf.probe.discovery import Add, Change, Discovery, Gone, Identity, Leave, Remove, Target
from otel_ebpf.probe.go_watch import GoWatch
from otel_ebpf.probe.hidden import HiddenTraffic
from otel_ebpf.probe.identity import identify, identify_as_told
from otel_ebpf.probe.leaving import LeavingProcesses
from otel_ebpf.probe.ledger import LedgerWatch
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.lookup_watch import LookupWatch
from otel_ebpf.probe.maps import FILE, PID, TARGET
from otel_ebpf.probe.nginx_watch import NginxWatch
from otel_ebpf.probe.node_watch import NodeWatch
from otel_ebpf.probe.prepare import PreparedParts
from otel_ebpf.probe.procfs import Procfs
from otel_ebpf.probe.python_watch import PythonWatch
from otel_ebpf.probe.socket_hooks import SocketHooks
from otel_ebpf.probe.stop_signals import StopSignals
from otel_ebpf.probe.tls_watch import MAX_LIBRARIES, TARGET_EXCLUDED, TARGET_WITHOUT_RETURN_PROBES, TlsWatch, troubles
from otel_ebpf.probe.uprobes import UprobeForm
from otel_ebpf.records.decode import decode_process_event
from otel_ebpf.records.frames import Frame, Hooks, ServiceGone, Shutdown, encode_frame
from otel_ebpf.records.kinds import Counter, CounterReading, ProcessEvent, ProcessEventKind
from otel_ebpf.records.ring import RingReader

_TICK_MS = 1000
_SETTLE_S = 5.0  # at the start, for the TLS of what runs already
_SWEEP_TICKS = 30
_IDLE_TICKS = 2
SETTLED = "files of what was running have their probes now"
_MAX_EXECUTABLES = 1024  # as in the kernel


class Watch(Protocol):
    """What keeps probes in files of targets. What it returns are processes that it wants to look at again."""

    def fileno(self) -> int: ...
    def look_at(self, pid: int) -> None: ...
    def inspect(self) -> None: ...
    def on_answer(self) -> list[int] | None: ...
    def forget(self, pid: int) -> None: ...
    def tick(self) -> list[int] | None: ...
    def close(self) -> None: ...


class Watcher:
    """`channel` leads to the exporter; `own_pids` are never watched. What `prepared` still works on is waited for here.
    `has_links`: which request caused a call is asked for."""

    def __init__(
        self,
        loaded: Loaded,
        hooks: SocketHooks,
        discovery: Discovery,
        channel: socket.socket,
        own_pids: Iterable[int],
        event_ring_bytes: int,
        uprobe_form: UprobeForm | None = None,
        prepared: PreparedParts | None = None,
        *,
        has_links: bool = True,
    ) -> None:
        self._maps = loaded.maps
        self._prepared = prepared
        self._discovery = discovery
        self._channel = channel
        self._procfs = Procfs()
        self._attachments = Attachments(loaded, hooks)
        self._tls = TlsWatch(loaded, uprobe_form, self._procfs, self._while_reading)
        self._python = PythonWatch(loaded, uprobe_form, self._procfs, self._while_reading)
        self._nginx = NginxWatch(loaded, self._procfs, is_on=has_links)
        self._go = GoWatch(loaded, uprobe_form, self._procfs, self._while_reading)
        self._node = NodeWatch(loaded, uprobe_form, self._procfs, self._while_reading)
        self._lookups = LookupWatch(loaded, uprobe_form, self._procfs, self._while_reading)
        self._watches: tuple[Watch, ...] = (
            *(self._tls, self._python, self._nginx, self._go, self._node, self._lookups),
        )
        self._to_look_at: dict[int, None] = {}  # processes that are new or have mapped a library
        self._executables: dict[tuple[int, int], bytes] = {}  # where those are that select their processes
        self._told_troubles: set[str] = set()
        self._events_fd = loaded.maps["process_events"].fd
        self._events = RingReader(self._events_fd, event_ring_bytes)
        self._counters = CounterReading((0,) * len(Counter))
        self._ledger = LedgerWatch(loaded.maps["ledger"])
        self._hidden = HiddenTraffic(self._procfs, self._tls.read_names, hooks.sees_every_call)
        self._hooks = Hooks("")
        self._leaving = LeavingProcesses(loaded.maps["targets"], loaded.maps["connections"])
        self._idle_ticks = 0
        self.is_settled = False
        """What ran when it started has the probes that its files are to have."""
        for pid in own_pids:
            self._maps["targets"].update(PID.pack(pid), TARGET.pack(pid, TARGET_EXCLUDED))

    def start(self) -> list[Target]:
        """Events first, then the scan: what begins in between is seen twice, not missed."""
        self._attachments.attach_lasting()
        targets = self._discovery.scan()
        services = dict.fromkeys(target.service_pid for target in targets)
        changes: list[Change] = [Add(target.pid, target.service_pid) for target in targets]
        self._apply([*changes, *(Identity(service_pid) for service_pid in services)])
        self._look_at_libraries()
        self._settle()
        self._tell_counts()
        return targets

    def _settle(self) -> None:
        """Waits until all libraries that were looked at are attached to; what takes longer comes later."""
        deadline = time.monotonic() + _SETTLE_S
        while (inspecting := self._inspecting()) and (left := deadline - time.monotonic()) > 0:
            for answer in select.select(list(inspecting), [], [], left)[0]:
                inspecting[answer]()
            self._look_at_libraries()
        self.is_settled = not inspecting

    def _inspecting(self) -> dict[int, Callable[[], None]]:
        """Who waits for an answer takes it, by what becomes readable.

        Go programs, Node and then lookups when the others have ended: more children would leave a process that lives for ten
        milliseconds no processor to be named on.
        """
        if self._tls.fileno() < 0 and self._python.fileno() < 0:
            self._go.inspect()
            self._node.inspect()
            if self._go.fileno() < 0 and self._node.fileno() < 0:
                self._lookups.inspect()
        waiting: dict[int, Callable[[], None]] = {
            watch.fileno(): partial(self._take, watch) for watch in self._watches if watch.fileno() >= 0
        }
        if self._prepared is not None and self._prepared.fileno() >= 0:
            waiting[self._prepared.fileno()] = self._prepared.receive
        return waiting

    def run(self, stop: StopSignals) -> None:
        """Until a signal comes; raises PeerLostError when the exporter has ended."""
        poll = select.poll()
        poll.register(self._events_fd, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        poll.register(stop, select.POLLIN)
        ticks, next_tick = 0, time.monotonic() + _TICK_MS / 1000
        answers: dict[int, Callable[[], None]] = {}  # of the inspectors that are at work
        while not stop.received:
            self._look_at_libraries()
            inspecting = self._inspecting()
            if not inspecting and not self.is_settled:
                self.is_settled = True
                sys.stderr.write(f"otel-ebpf: {SETTLED}\n")
            for answer, take in inspecting.items():
                if answer not in answers:
                    answers[answer] = take
                    poll.register(answer, select.POLLIN)
            wait_ms = max(0, int((next_tick - time.monotonic()) * 1000) + 1)
            for descriptor, _ in poll.poll(wait_ms):
                if descriptor == self._events_fd:
                    self._read_events()
                elif descriptor in answers:
                    poll.unregister(descriptor)
                    answers.pop(descriptor)()
                elif descriptor == self._channel.fileno() and not self._channel.recv(64):
                    raise PeerLostError("the exporter has ended", "Its last message, above, says why.")
            if time.monotonic() >= next_tick:
                ticks += 1
                next_tick += _TICK_MS / 1000
                self._read_events()
                self._detach_when_idle()
                for watch in self._watches:
                    self._look_again(watch.tick())
                self._tell_counts()
                if ticks % _SWEEP_TICKS == 0:
                    self._apply(self._discovery.sweep())
                    self._leaving.sweep()

    def know_executable(self, inode: int, device: int, path: bytes) -> None:
        """Its processes are targets from their exec on."""
        self._maps["executables"].update(FILE.pack(inode, device), bytes(4))
        self._executables[inode, device] = path
        while len(self._executables) > _MAX_EXECUTABLES:
            del self._executables[next(iter(self._executables))]

    def stop(self, deadline_monotonic_ns: int, reason: str) -> None:
        """Detaches everything, then tells the exporter to finish."""
        self._detach()
        self._tell_counts()
        self._send(Shutdown(reason, deadline_monotonic_ns))

    def close(self) -> None:
        self._detach()
        self._events.close()

    def _read_events(self) -> None:
        events: list[ProcessEvent] = []
        self._events.drain(
            lambda data, offset, length: events.append(decode_process_event(data, offset, length)),
            self._events.produced,
        )
        for event in events:
            if event.kind in (ProcessEventKind.MAPPED, ProcessEventKind.EXEC):
                self._to_look_at[event.pid] = None
            self._apply(self._discovery.on_event(event), event)
            path = self._discovery.selected_program(event.pid) if event.kind == ProcessEventKind.EXEC else None
            if path is not None:
                self.know_executable(event.executable_inode, event.executable_device, path)

    def _apply(self, changes: Sequence[Change], event: ProcessEvent | None = None) -> None:
        """The kernel first: a new process may send its first request within milliseconds. Who it is can come later.

        `event`: what the changes rest on.
        """
        for change in changes:
            if isinstance(change, Add):
                self._watch(change)
                self._to_look_at[change.pid] = None
            elif isinstance(change, (Remove, Leave)):
                if isinstance(change, Leave):
                    self._leaving.leave(change.pid)
                else:
                    self._maps["targets"].delete(PID.pack(change.pid))
                for watch in self._watches:
                    watch.forget(change.pid)
        if self._discovery.targets:
            self._attachments.attach_socket_programs(True)
        for change in changes:
            if isinstance(change, Identity):
                identity = identify(change.service_pid, self._procfs)
                if identity is None and event is not None and event[:2] == (ProcessEventKind.EXEC, change.service_pid):
                    program = event.executable_inode, event.executable_device
                    identity = identify_as_told(event, self._executables.get(program, b""))
                if identity is not None:
                    self._send(identity)
            elif isinstance(change, Gone):
                self._send(ServiceGone(change.service_pid))

    def _detach(self) -> None:
        for watch in self._watches:
            watch.close()
        self._attachments.detach_all()

    def _detach_when_idle(self) -> None:
        """Not at once: processes that live for a moment come one after the other."""
        self._idle_ticks = 0 if self._discovery.targets else self._idle_ticks + 1
        if self._idle_ticks >= _IDLE_TICKS:
            self._attachments.attach_waits(False)
            self._attachments.attach_socket_programs(False)

    def _while_reading(self, attaching: Callable[[], list[int]]) -> list[int]:
        """It takes ten milliseconds and more; who lives no longer than that is named meanwhile."""
        poll = select.poll()
        poll.register(self._events_fd, select.POLLIN)
        with ThreadPoolExecutor(1) as thread:
            attached = thread.submit(attaching)
            while not attached.done():
                if poll.poll(1):
                    self._read_events()
            return attached.result()

    def _look_at_libraries(self) -> None:
        """Last of all, and once for all that a process has mapped: another one may end before anybody knows who it was."""
        while self._to_look_at:
            pid = next(iter(self._to_look_at))
            del self._to_look_at[pid]
            if pid not in self._discovery.targets:
                continue
            for watch in self._watches:
                watch.look_at(pid)
            if self._python.follows_any:
                self._attachments.attach_waits(True)
            if (target := self._discovery.targets.get(pid)) is not None:  # it may have ended meanwhile
                watches = self._tls, self._python, self._nginx, self._go, self._node
                flags = reduce(or_, (watch.target_flags(pid) for watch in watches))
                self._write_target(pid, target.service_pid, flags)
            self._read_events()

    def _take(self, watch: Watch) -> None:
        self._look_again(watch.on_answer())

    def _look_again(self, pids: list[int] | None) -> None:
        self._to_look_at.update(dict.fromkeys(pids or ()))

    def _watch(self, change: Add) -> None:
        """What the kernel knows stays. Else no return probe until it has been looked at: it may switch stacks."""
        before = self._maps["targets"].lookup(PID.pack(change.pid))
        flags = TARGET_WITHOUT_RETURN_PROBES if before is None else TARGET.unpack(before)[1]
        self._write_target(change.pid, change.service_pid, flags)

    def _write_target(self, pid: int, service_pid: int, flags: int) -> None:
        try:
            self._maps["targets"].update(PID.pack(pid), TARGET.pack(service_pid, flags))
        except OSError as error:
            raise AgentError(
                f"cannot watch process {pid}: {error.strerror}",
                "Select fewer processes, by OTEL_EBPF_OPEN_PORT or OTEL_EBPF_AUTO_TARGET_EXE.",
            ) from error

    def _tell_counts(self) -> None:
        tls_files, lookup_files = self._tls.probed_count, self._lookups.probed_count
        hooks = Hooks(
            self._attachments.socket_backend,
            self._tls.form_text if tls_files else "",
            tls_files,
            self._lookups.form_text if lookup_files else "",
            lookup_files,
        )
        if hooks != self._hooks:
            self._hooks = hooks
            self._send(hooks)
        processes = Tally(target.service_pid for target in self._discovery.targets.values())
        now_ns = time.monotonic_ns()
        for frame in (*self._ledger.read(processes, now_ns), *self._hidden.look(self._discovery.targets, now_ns)):
            self._send(frame)
        self._read_counters()
        self._tell_troubles()

    def _tell_troubles(self) -> None:
        watches = self._python, self._go, self._node, self._nginx, self._lookups
        for line in (*troubles(self._tls.libraries), *(line for watch in watches for line in watch.troubles)):
            if line not in self._told_troubles and len(self._told_troubles) < MAX_LIBRARIES:
                self._told_troubles.add(line)
                sys.stderr.write(f"otel-ebpf: {line}\n")

    def _read_counters(self) -> None:
        values = tuple(
            sum(
                int.from_bytes(value, "little")
                for value in self._maps["counters"].lookup_per_cpu(PID.pack(index)) or ()
            )
            for index in Counter
        )
        if values == self._counters.values:
            return
        lost = Counter.PROCESS_EVENTS_LOST
        has_lost_events = values[lost] > self._counters.values[lost]
        self._counters = CounterReading(values)
        self._send(self._counters)
        if has_lost_events:
            self._apply(self._discovery.rescan())

    def _send(self, frame: Frame) -> None:
        try:
            self._channel.send(encode_frame(frame))
        except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
            raise PeerLostError("the exporter has ended", "Its last message, above, says why.") from error
