from otel_ebpf.exchanges.exchange import Exchange
from otel_ebpf.export.pipeline import _is_own_export
from tests.unit.exchanges.kernel_model import Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
OWN = frozenset({(bytes([127, 0, 0, 1]) + bytes(12), 50000)})


def exported(user_agent: bytes, method: bytes = b"POST") -> Exchange:
    head = b"%b /v1/traces HTTP/1.1\r\nUser-Agent: %b\r\nContent-Length: 0\r\n\r\n" % (method, user_agent)
    (exchange,) = Connection().request(head).response(OK).exchanges
    return exchange


def test_the_agents_own_export_is_known_by_its_connection_and_its_name():
    assert _is_own_export(exported(b"OTel-OTLP-Exporter-Python/1.45.2"), OWN)


def test_another_client_on_a_port_that_was_the_agents_is_not_the_agent():
    """Ports are given again within seconds where connections are many."""
    assert not _is_own_export(exported(b"curl/8"), OWN)
    assert not _is_own_export(exported(b"OTel-OTLP-Exporter-Python/1.45.2", b"GET"), OWN)


def test_another_services_export_to_the_same_collector_is_not_the_agents():
    assert not _is_own_export(exported(b"OTel-OTLP-Exporter-Python/1.45.2"), frozenset())
