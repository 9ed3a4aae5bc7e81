"""The ledger as metrics have it: what became of the requests of each service, and of all.

In:   the ledger and the services, in the pipeline's thread
Out:  Standing, by Resource
Owns: the last standing of services that have ended, for as long as a series is kept

An account of the ledger ends with its service and is added to that of all which ended before. As metrics that would count
its requests twice, so here each keeps its own until it is forgotten.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from otel_ebpf.exchanges.ledger import CONNECTIONS_FULL, ENDED, RING_FULL, Account, Ledger, kernel_counts
from otel_ebpf.export.services import Service, Services
from otel_ebpf.telemetry.resource import AttributeValue

SPAN = "span"  # the result of a request that gave one; others are the ledger's reasons
_MAX_CLOSED = 1000
OpenByService = Mapping[int, tuple[int, int]]  # requests that are open, and those pipelined so far


@dataclass(frozen=True, slots=True)
class Standing:
    """began = the sum of `results` + open, but for kernel counts that are up to a second old."""

    resource: bytes
    attributes: Mapping[str, AttributeValue]
    began: int
    open: int
    results: dict[str, int]
    not_visible: dict[str, int]
    processes: int


class LedgerReadings:
    def __init__(self, ledger: Ledger, services: Services, ttl_ns: int) -> None:
        self._ledger = ledger
        self._services = services
        self._ttl_ns = ttl_ns
        self._closed: deque[tuple[int, Service, Account]] = deque(maxlen=_MAX_CLOSED)
        self._unknown = Account()  # of all services that ended before anybody knew who they were

    def close(self, service_pid: int, now_ns: int) -> None:
        """To be called before the ledger closes the account."""
        account = self._ledger.accounts.get(service_pid)
        if account is None:
            return
        service = self._services.find(service_pid)
        if service is None:
            self._unknown.add(account)
        else:
            self._closed.append((now_ns, service, account))

    def read(self, still_open: OpenByService, now_ns: int) -> list[Standing]:
        """One for each Resource."""
        while self._closed and now_ns - self._closed[0][0] > self._ttl_ns:
            self._closed.popleft()
        unknown = self._services.unknown()
        found: dict[bytes, tuple[Service, Account, list[int]]] = {}
        for service, account, pid in (
            *((self._services.find(pid) or unknown, account, pid) for pid, account in self._ledger.accounts.items()),
            *((service, account, ENDED) for _, service, account in self._closed),
            (unknown, self._unknown, ENDED),
        ):
            if account is not self._ledger.accounts.get(ENDED):
                _, total, of_open = found.setdefault(service.resource, (service, Account(), [0, 0]))
                total.add(account)
                of_open[0] += still_open.get(pid, (0, 0))[0]
                of_open[1] += still_open.get(pid, (0, 0))[1]
        return [
            standing(service, account, *of_open)
            for service, account, of_open in found.values()
            if account.began or account.losses or account.not_visible or account.processes
        ]

    def of_host(self, still_open: OpenByService, counts: tuple[int, ...]) -> Standing:
        """`counts`: the kernel's, of the host."""
        total = self._ledger.total()
        total.kernel = kernel_counts(counts)
        of_open = (sum(column) for column in zip((0, 0), *still_open.values(), strict=True))
        return standing(None, total, *of_open)


def standing(service: Service | None, account: Account, open_requests: int, open_pipelined: int) -> Standing:
    return Standing(
        resource=service.resource if service else b"",
        attributes=service.attributes if service else {},
        began=account.began_so_far(open_pipelined),
        open=open_requests,
        # Losses that may come at any time are told before there are any: an increase is seen only from a number on.
        results={SPAN: account.spans, RING_FULL: 0, CONNECTIONS_FULL: 0, **account.losses},
        not_visible={counter.name.lower(): count for counter, count in account.unread.items()},
        processes=account.processes,
    )
