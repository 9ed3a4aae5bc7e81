"""Collectors over TLS, with certificates on both ends."""

from pathlib import Path

import grpc
import pytest

from otel_ebpf.export import sender as sender_module
from otel_ebpf.export.sender import SendCounts
from tests.services.certificates import Certificates, make_certificates
from tests.unit.export.collectors import grpc_collector, http_collector, settings, wait_until
from tests.unit.export.sending import sending


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def trusting(certificates: Certificates) -> dict[str, str]:
    return {
        "certificate": certificates.authority,
        "client_certificate": certificates.certificate,
        "client_key": certificates.key,
    }


def test_http_uses_the_named_certificates(certificates: Certificates):
    """OTEL_EXPORTER_OTLP_CERTIFICATE, CLIENT_CERTIFICATE and CLIENT_KEY: the server demands a client's."""
    with http_collector(tls=certificates.server_context()) as collector:
        endpoint = f"https://127.0.0.1:{collector.port}/v1/traces"
        with sending(settings(endpoint, **trusting(certificates))) as own:
            own.put("a")
            wait_until(lambda: own.sender.counts().exported == 1, "delivery")
            assert ["a"] == collector.names()


def test_certificate_of_an_unknown_authority_is_not_accepted(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sender_module, "FIRST_BACK_OFF_SECONDS", 0.05)
    with http_collector(tls=certificates.server_context()) as collector:  # noqa: SIM117
        with sending(settings(f"https://127.0.0.1:{collector.port}/v1/traces")) as own:
            own.put("a")
            wait_until(lambda: len(own.messages) == 1, "the complaint")
            assert "certificate" in own.messages[0]
            assert [] == collector.received


def test_certificates_are_read_before_rights_are_dropped(certificates: Certificates, tmp_path: Path):
    """After construction the files may be gone, or unreadable for the process's user."""
    copies = make_certificates(tmp_path)
    with http_collector(tls=copies.server_context()) as collector:
        endpoint = f"https://127.0.0.1:{collector.port}/v1/traces"
        with sending(settings(endpoint, **trusting(copies)), is_started=False) as own:
            for path in tmp_path.iterdir():
                path.unlink()
            own.sender.start()
            own.put("a")
            wait_until(lambda: own.sender.counts().exported == 1, "delivery")


def test_grpc_uses_the_named_certificates(certificates: Certificates):
    key, certificate, authority = (
        Path(path).read_bytes() for path in (certificates.key, certificates.certificate, certificates.authority)
    )
    server = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    with grpc_collector(credentials=server) as collector:
        secure = settings(f"https://127.0.0.1:{collector.port}", protocol="grpc", **trusting(certificates))
        with sending(secure) as own:
            own.put("a")
            assert SendCounts(1, 0, 0, 0) == own.stop(10)
            assert ["a"] == collector.names()
