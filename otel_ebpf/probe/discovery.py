"""Keeps the picture of which processes are watched, and which service each belongs to.

In:   /proc at start, then process events of the kernel
Out:  changes: what to write into the BPF map `targets`, and which services to tell the exporter of
Owns: the targets by pid, the members of each service

A service is led by the topmost selected ancestor that holds the same listening socket (nginx's master, gunicorn's
arbiter). Where no socket tells, a worker of a watched parent (a copy of it by fork, or the same program started as a
worker) serves with it: Node's cluster hands connections over, its workers hold no listening socket at all. Any other
program that a target starts is not part of the service, unless it is selected itself, or is started to serve a connection
(inetd).

When the leader ends before its workers do (daemons fork and leave, nginx upgrades its binary), the service goes on
under one of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from otel_ebpf.probe.procfs import ListeningPorts, Procfs, Snapshot
from otel_ebpf.probe.selection import Selection
from otel_ebpf.records.kinds import ProcessEvent, ProcessEventKind

# Holds the sockets of services that it starts on demand; it serves nothing itself and must not lead them.
_SOCKET_ACTIVATORS = (b"/systemd",)


@dataclass(frozen=True, slots=True)
class Target:
    pid: int
    service_pid: int
    why: str
    start_ticks: int  # 0: it ended before it could be read


@dataclass(frozen=True, slots=True)
class Add:
    """Watch the process as part of this service; also when it was watched as part of another."""

    pid: int
    service_pid: int


@dataclass(frozen=True, slots=True)
class Remove:
    """The process has ended, or was never to be watched."""

    pid: int


@dataclass(frozen=True, slots=True)
class Leave:
    """The process goes on, and what it begins is to be watched no more."""

    pid: int


@dataclass(frozen=True, slots=True)
class Identity:
    """The service is new, or what names it has changed: its leader's facts are to be read (again)."""

    service_pid: int


@dataclass(frozen=True, slots=True)
class Gone:
    """No process belongs to the service any longer."""

    service_pid: int


Change = Add | Remove | Leave | Identity | Gone


class _Judge:
    """Decides which processes are targets, from one snapshot; `standing` are targets that need no second look."""

    def __init__(
        self, snapshot: Snapshot, selection: Selection, own_pids: frozenset[int], standing: Mapping[int, Target]
    ) -> None:
        self.snapshot = snapshot
        self._selection = selection
        self._own_pids = own_pids
        self._standing = standing
        self._reasons: dict[int, str | None] = {}
        self._targets: dict[int, Target | None] = {}

    def reason(self, pid: int, port: int = 0) -> str | None:
        """Why the process is selected by itself; `port` is one that it is known to listen on."""
        if pid not in self._reasons or port:
            self._reasons[pid] = self._reason(pid, port)
        return self._reasons[pid]

    def _reason(self, pid: int, port: int) -> str | None:
        selection = self._selection
        executable = self.snapshot.executable(pid) if selection.exe_globs else None
        why = selection.reason_by_program(pid, executable)
        if why is None and selection.port_ranges:
            ports = {port} if port else set(self.snapshot.listening(pid).values())
            why = selection.reason_by_port(ports)
        return None if why is None or self._is_never_watched(pid) else why

    def _is_never_watched(self, pid: int) -> bool:
        if (self.snapshot.executable(pid) or b"").endswith(_SOCKET_ACTIVATORS):
            return True
        return pid in self._own_pids or not self._own_pids.isdisjoint(self.snapshot.ancestors(pid))

    def target(self, pid: int) -> Target | None:
        """Judges the process anew, and with it those above it that run the same program, from the top down."""
        line = [pid]
        for ancestor in self.snapshot.ancestors(pid):
            if line[-1] in self._targets or not self.snapshot.is_worker(line[-1], ancestor):
                break
            line.append(ancestor)
            if ancestor in self._standing:
                break
        parent: Target | None = None
        for process in reversed(line):
            if process not in self._targets:
                standing = self._standing.get(process) if process != pid else None
                self._targets[process] = standing or self._judge(process, parent)
            parent = self._targets[process]
        return parent

    def _judge(self, pid: int, parent: Target | None) -> Target | None:
        """`parent`: the parent process, where it is a target and this is a worker of it."""
        stat = self.snapshot.stat(pid)
        if stat is None:
            return None
        why = self.reason(pid)
        holder = self._topmost_holder(pid) if why is not None else pid
        leader = self.target(holder) if holder != pid else parent
        if leader is not None and not self._is_never_watched(pid):
            return Target(pid, leader.service_pid, why or f"worker of {leader.pid}", stat.start_ticks)
        return None if why is None else Target(pid, pid, why, stat.start_ticks)

    def _topmost_holder(self, pid: int) -> int:
        """The topmost selected ancestor that holds a listening socket of this process, or itself."""
        holder, held = pid, set(self.snapshot.listening(pid))
        for ancestor in self.snapshot.ancestors(pid) if held else ():
            of_ancestor = self.snapshot.listening(ancestor)
            if not held.isdisjoint(of_ancestor) and self.reason(ancestor) is not None:
                holder = ancestor
                held |= of_ancestor.keys()  # a chain of shared sockets leads to its top in one walk
        return holder


class Discovery:
    def __init__(self, selection: Selection, own_pids: Iterable[int], procfs: Procfs | None = None) -> None:
        self._selection = selection
        self._own_pids = frozenset(own_pids)
        self._procfs = procfs or Procfs()
        self._listening = ListeningPorts(self._procfs)
        self._targets: dict[int, Target] = {}
        self._members: dict[int, set[int]] = {}  # service pid -> its processes

    @property
    def targets(self) -> Mapping[int, Target]:
        return self._targets

    def selected_program(self, pid: int) -> bytes | None:
        """Where its executable is, if every process of it is to be watched."""
        path = self._procfs.executable(pid) if pid in self._targets and self._selection.exe_globs else None
        return path if self._selection.reason_by_program(-1, path) is not None else None

    def scan(self) -> list[Target]:
        """All targets of this moment; the way to begin."""
        self.rescan()
        return list(self._targets.values())

    def rescan(self) -> list[Change]:
        """Looks at every process again: for when the kernel says that process events were lost."""
        self._listening.forget()
        judge = self._judge(standing={})
        pids = self._procfs.pids()
        found = {pid: target for pid in pids if (target := judge.target(pid)) is not None}
        changes: list[Change] = []
        for pid, target in list(self._targets.items()):
            if pid not in found and not self._still_serves(target, found, judge.snapshot):
                changes += self._forget(Leave(pid) if _goes_on(target, judge.snapshot) else Remove(pid))
        for target in found.values():
            changes += self._keep(target)
        return changes

    def sweep(self) -> list[Change]:
        """Forgets targets that ended unheard: before they were in the map, or when an event was lost."""
        changes: list[Change] = []
        snapshot = Snapshot(self._procfs, self._listening)
        for pid, target in list(self._targets.items()):
            if not _goes_on(target, snapshot):
                changes += self._forget(Remove(pid))
        return changes

    def on_event(self, event: ProcessEvent) -> list[Change]:
        """The changes that one event of the kernel asks for, in the order to apply them."""
        kind = event.kind
        if kind == ProcessEventKind.EXEC:
            return self._on_exec(event)
        if kind == ProcessEventKind.FORK:
            return self._on_fork(event)
        if kind == ProcessEventKind.EXIT:
            return self._forget(Remove(event.pid))
        if kind == ProcessEventKind.LISTEN:
            return self._on_listen(event)
        return []

    def _on_exec(self, event: ProcessEvent) -> list[Change]:
        """Every program start of the host comes by here: the first question must be the cheap one."""
        pid = event.pid
        judge = self._judge(standing=self._targets)
        if pid not in self._targets and not event.is_target and judge.reason(pid) is None:
            return []
        target = judge.target(pid)
        if target is None and event.is_target and pid not in self._targets and judge.snapshot.stat(pid) is None:
            return [Remove(pid), Identity(pid), Gone(pid)]  # over already: what the event tells of it is all there is
        if target is None and event.port and pid in self._targets:
            return []
        if target is None:
            return self._forget(Leave(pid))
        changes = self._keep(target)
        is_new_program = target.service_pid == pid and Identity(pid) not in changes
        return [*changes, Identity(pid)] if is_new_program else changes

    def _on_fork(self, event: ProcessEvent) -> list[Change]:
        changes: list[Change] = []
        if event.parent_pid not in self._targets and event.is_target:
            # The event that made the parent a target is lost.
            parent = self._judge(standing=self._targets).target(event.parent_pid)
            changes = [] if parent is None else self._keep(parent)
        if event.parent_pid not in self._targets:
            return self._forget(Leave(event.pid))
        stat = self._procfs.stat(event.pid)
        service_pid = self._targets[event.parent_pid].service_pid
        why = f"forked from {event.parent_pid}"
        changes += self._keep(Target(event.pid, service_pid, why, stat.start_ticks if stat else 0))
        # The kernel has added it with the service of its parent at that moment, which may have changed since.
        return changes if Add(event.pid, service_pid) in changes else [*changes, Add(event.pid, service_pid)]

    def _on_listen(self, event: ProcessEvent) -> list[Change]:
        pid = event.pid
        self._listening.forget()
        judge = self._judge(standing={})
        target = judge.target(pid) or self._by_port_alone(judge, event)
        if target is None:
            return [Remove(pid)] if event.is_target and pid not in self._targets else []
        if judge.snapshot.stat(pid) is None:
            # Daemons end right after listen(): its children still come, by events. The kernel has forgotten it.
            return [change for change in self._keep(target) if not isinstance(change, Add)]
        changes: list[Change] = []
        before = self._targets.get(pid)
        # A further port of a known member brings nobody new, and looking at its relatives costs milliseconds.
        is_known = before is not None and before.service_pid == target.service_pid
        for relative in [] if is_known else self._relatives(target, judge.snapshot):
            found = judge.target(relative)
            if found is not None and found.service_pid == target.service_pid:
                changes += self._keep(found)
        changes += self._keep(target)
        identity = Identity(target.service_pid)
        return changes if identity in changes else [*changes, identity]

    def _by_port_alone(self, judge: _Judge, event: ProcessEvent) -> Target | None:
        """The socket that the event tells of is not in /proc: already closed, or its process has ended."""
        why = judge.reason(event.pid, event.port)
        standing = self._targets.get(event.pid)
        if why is None or standing is not None:
            return standing
        stat = judge.snapshot.stat(event.pid)
        if stat is None and not event.is_target:
            return None
        return Target(event.pid, event.pid, why, stat.start_ticks if stat else 0)

    def _relatives(self, target: Target, snapshot: Snapshot) -> list[int]:
        """The leader with all that descend from it or from its parent: who may hold the same socket."""
        leader = target.service_pid
        above = snapshot.ancestors(leader)
        # What adopts orphans, or starts everything, is no family.
        has_family = len(above) > 1 and not (snapshot.executable(above[0]) or b"").endswith(_SOCKET_ACTIVATORS)
        relatives = snapshot.descendants(above[0] if has_family else leader)
        return [leader, *(pid for pid in relatives if pid != leader)]

    def _judge(self, standing: Mapping[int, Target]) -> _Judge:
        return _Judge(Snapshot(self._procfs, self._listening), self._selection, self._own_pids, standing)

    def _keep(self, target: Target) -> list[Change]:
        before = self._targets.get(target.pid)
        if before is not None and before.service_pid == target.service_pid:
            self._targets[target.pid] = target
            return []
        changes: list[Change] = []
        if target.service_pid not in self._members:
            changes.append(Identity(target.service_pid))
        self._targets[target.pid] = target
        self._members.setdefault(target.service_pid, set()).add(target.pid)
        changes.append(Add(target.pid, target.service_pid))
        return changes if before is None else changes + self._leave(before)

    def _forget(self, how: Remove | Leave) -> list[Change]:
        """Also of a process that the kernel alone has taken for a target."""
        target = self._targets.pop(how.pid, None)
        return [how] if target is None else [how, *self._leave(target)]

    def _leave(self, target: Target) -> list[Change]:
        """One process left its service: an empty service is gone, one that lost its leader gets another."""
        members = self._members[target.service_pid]
        members.discard(target.pid)
        if not members:
            del self._members[target.service_pid]
            return [Gone(target.service_pid)]
        if target.pid != target.service_pid:
            return []
        snapshot = Snapshot(self._procfs, self._listening)
        alive = [pid for pid in members if snapshot.stat(pid) is not None]
        if not alive:
            return []  # their own ends are on the way
        # One that has workers itself before one that has none (a new master before old workers), the oldest first.
        parents = {stat.parent_pid for pid in alive if (stat := snapshot.stat(pid)) is not None}
        leader = min(alive, key=lambda pid: (pid not in parents, self._targets[pid].start_ticks, pid))
        for pid in members:
            self._targets[pid] = replace(self._targets[pid], service_pid=leader)
        changes: list[Change] = [Identity(leader), *(Add(pid, leader) for pid in sorted(alive))]
        self._members.setdefault(leader, set()).update(members)
        del self._members[target.service_pid]
        return [*changes, Gone(target.service_pid)]

    def _still_serves(self, target: Target, found: Mapping[int, Target], snapshot: Snapshot) -> bool:
        """A worker without a socket whose leader is not its ancestor: only the events could tell that."""
        if not _goes_on(target, snapshot) or target.service_pid not in found:
            return False
        program = snapshot.executable(target.pid)
        return program is not None and program == snapshot.executable(target.service_pid)


def _goes_on(target: Target, snapshot: Snapshot) -> bool:
    """Else it has ended, and another process may have its number."""
    stat = snapshot.stat(target.pid)
    return stat is not None and stat.start_ticks == target.start_ticks
