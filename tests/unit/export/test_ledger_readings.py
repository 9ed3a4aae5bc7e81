"""The ledger as metrics: each request counted for one Resource, in every moment of its service's life."""

from otel_ebpf.exchanges.ledger import Ledger
from otel_ebpf.export.ledger_readings import LedgerReadings, Standing
from otel_ebpf.export.services import Services
from otel_ebpf.records.kinds import Counter
from tests.unit.telemetry.examples import HOST, identity

TTL_NS = 300


class Agent:
    """A ledger, its services and what metrics read of both."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.services = Services(HOST, "1")
        self.readings = LedgerReadings(self.ledger, self.services, TTL_NS)

    def count(self, pid: int, *, began: int, spans: int, processes: int = 1, **kernel: int) -> None:
        counts = {Counter.BEGAN: began, **{Counter[name]: count for name, count in kernel.items()}}
        self.ledger.read((pid, processes, *(counts.get(counter, 0) for counter in Counter)))
        self.ledger.of(pid).spans = spans

    def close(self, pid: int, now_ns: int) -> None:
        self.readings.close(pid, now_ns)
        self.ledger.close(pid)

    def read(self, now_ns: int = 0, **still_open: tuple[int, int]) -> dict[str, Standing]:
        by_pid = {int(pid.removeprefix("pid")): counts for pid, counts in still_open.items()}
        found = self.readings.read(by_pid, now_ns)
        assert len(found) == len({standing.resource for standing in found})
        return {str(standing.attributes["service.name"]): standing for standing in found}


def named(pid: int, name: str) -> object:
    return identity(pid=pid, environ={"OTEL_SERVICE_NAME": name.encode()})


def test_a_service_has_its_requests_and_what_became_of_them() -> None:
    agent = Agent()
    agent.services.learn(named(7, "shop"))  # type: ignore[arg-type]
    agent.count(7, began=10, spans=5, LOST_RING_FULL=2, TLS=4)
    agent.ledger.of(7).tally["not HTTP"] += 1
    shop = agent.read(pid7=(2, 1))["shop"]

    assert (11, 2, 1) == (shop.began, shop.open, shop.processes)
    assert {"span": 5, "lost, ring full": 2, "lost, too many connections": 0, "not HTTP": 1} == shop.results
    assert {"tls": 4} == shop.not_visible
    assert shop.began - 1 == sum(shop.results.values()) + shop.open


def test_a_service_that_has_ended_keeps_its_count_and_is_not_counted_among_others() -> None:
    """For as long as a series is kept; the sum of all never goes down nor twice up."""
    agent = Agent()
    agent.services.learn(named(7, "shop"))  # type: ignore[arg-type]
    agent.services.learn(named(8, "bank"))  # type: ignore[arg-type]
    agent.count(7, began=10, spans=10)
    agent.count(8, began=3, spans=3)
    agent.close(7, now_ns=100)
    found = agent.read(now_ns=100)

    assert {"shop": 10, "bank": 3} == {name: standing.began for name, standing in found.items()}
    assert {"bank"} == agent.read(now_ns=101 + TTL_NS).keys()


def test_services_that_nobody_knew_are_one_for_good() -> None:
    agent = Agent()
    for pid in range(10, 15):
        agent.count(pid, began=2, spans=1)
    assert 10 == agent.read()["unknown_service"].began

    for pid in range(10, 14):
        agent.close(pid, now_ns=0)
    assert 10 == agent.read(now_ns=10 * TTL_NS)["unknown_service"].began


def test_a_number_that_comes_back_is_another_service() -> None:
    agent = Agent()
    agent.services.learn(named(7, "shop"))  # type: ignore[arg-type]
    agent.count(7, began=10, spans=10)
    agent.close(7, now_ns=0)
    agent.services.learn(named(7, "bank"))  # type: ignore[arg-type]
    agent.count(7, began=1, spans=1)

    assert {"shop": 10, "bank": 1} == {name: standing.began for name, standing in agent.read().items()}


def test_the_host_has_all_also_those_that_have_ended() -> None:
    agent = Agent()
    agent.count(7, began=10, spans=8)
    agent.close(7, now_ns=0)
    agent.count(8, began=3, spans=3)
    host = agent.readings.of_host({8: (1, 0)}, (14, *(0,) * (len(Counter) - 1)))

    assert (14, 11, 1) == (host.began, host.results["span"], host.open)


def test_nothing_is_told_of_a_service_of_which_nothing_is_known() -> None:
    assert {} == Agent().read()
