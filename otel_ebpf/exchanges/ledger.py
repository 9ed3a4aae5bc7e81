"""What became of the requests of each service, to the last one.

In:   the kernel's counts of each service; each span and each loss, as they happen
Out:  accounts by service_pid, in which began = spans + losses + open; what the sampler did not keep stands among the losses
Owns: all counts of this side; who loses or sends an exchange counts it here, once

A service that has ended hands its account to ENDED, so the sum never loses what was counted. 0 stands for what the
kernel counted for services that had no room in its table.
"""

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field

from otel_ebpf.records.kinds import Counter

# In the place of a service_pid:
UNKNOWN_SERVICE = 0
ENDED = -1  # services whose last process has ended
_MAX_ACCOUNTS = 16_384

RING_FULL = "lost, ring full"
CONNECTIONS_FULL = "lost, too many connections"
OLDER = "older than the agent"
ANSWERED_FIRST = "answered before the call that sent it returned"
NOT_SAMPLED = "not sampled"

# What the kernel saw of a service and could not read, and what to say of it.
NOT_VISIBLE = {
    Counter.TLS: "TLS connections, of which no plain text was seen",
    Counter.TLS_UNPROVEN: "reads and writes of TLS that no connection could be proven for",
    Counter.HTTP2: "connections speak HTTP/2, which is not read by this version",
    Counter.IO_URING: "calls of io_uring_enter: what moves through io_uring is not seen",
    Counter.COMPAT_SYSCALLS: "32-bit system calls, which are not read",
    Counter.CALLS_UNSEEN: "calls on sockets whose bytes were not seen: too many at once, sendmmsg, recvmmsg, made elsewhere, memory gone",
}


def kernel_counts(values: Sequence[int]) -> tuple[int, ...]:
    """One for each `Counter`, also when a recording of another version has more or fewer."""
    return (*values[: len(Counter)], *(0,) * (len(Counter) - len(values)))


@dataclass(slots=True)
class Account:
    """One service's."""

    kernel: tuple[int, ...] = (0,) * len(Counter)
    processes: int = 0
    spans: int = 0
    pipelined: int = 0  # requests that the kernel could not count
    recovered: int = 0  # reported, though the kernel has counted them as lost
    tally: Tally[str] = field(default_factory=Tally)  # exchanges without a span, by reason

    @property
    def began(self) -> int:
        return self.kernel[Counter.BEGAN] + self.pipelined

    def began_so_far(self, open_pipelined: int) -> int:
        """While the agent runs: the kernel's counts are older than this side's, and what has given a span has begun."""
        return max(self.began + open_pipelined, self.spans + sum(self.losses.values()))

    @property
    def losses(self) -> dict[str, int]:
        """By reason, the kernel's included; only what there is."""
        losses = Tally(self.tally)
        losses[RING_FULL] += max(0, self.kernel[Counter.LOST_RING_FULL] - self.recovered)
        losses[CONNECTIONS_FULL] += self.kernel[Counter.LOST_CONNECTIONS_FULL]
        losses[OLDER] += self.kernel[Counter.OLDER]
        losses[ANSWERED_FIRST] += self.kernel[Counter.ANSWERED_FIRST]
        return {reason: count for reason, count in losses.items() if count}

    @property
    def unread(self) -> dict[Counter, int]:
        """What the kernel noticed and could not read; only what there is."""
        counts = {counter: self.kernel[counter] for counter in NOT_VISIBLE}
        counts[Counter.TLS] = max(0, counts[Counter.TLS] - self.kernel[Counter.TLS_SEEN])
        return {counter: count for counter, count in counts.items() if count}

    @property
    def not_visible(self) -> dict[str, int]:
        return {NOT_VISIBLE[counter]: count for counter, count in self.unread.items()}

    def add(self, other: "Account") -> None:
        self.kernel = tuple(map(sum, zip(self.kernel, other.kernel, strict=True)))
        self.processes += other.processes
        self.spans += other.spans
        self.pipelined += other.pipelined
        self.recovered += other.recovered
        self.tally.update(other.tally)


class Ledger:
    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}

    def of(self, service_pid: int) -> Account:
        account = self.accounts.get(service_pid)
        if account is None:
            if len(self.accounts) >= _MAX_ACCOUNTS:
                service_pid = ENDED
            account = self.accounts.setdefault(service_pid, Account())
        return account

    def read(self, row: tuple[int, ...]) -> None:
        """What the kernel has counted for a service since the agent started; see LedgerReading."""
        service_pid, processes, *counts = row
        account = self.accounts.setdefault(service_pid, Account())
        account.processes, account.kernel = processes, kernel_counts(counts)

    def close(self, service_pid: int) -> None:
        """No more will be counted for it: its number may come back as another service's."""
        account = self.accounts.pop(service_pid, None)
        if account is not None:
            account.processes = 0
            self.of(ENDED).add(account)

    def total(self) -> Account:
        total = Account()
        for account in self.accounts.values():
            total.add(account)
        return total
