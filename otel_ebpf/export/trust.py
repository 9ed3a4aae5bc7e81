"""Which certificates are trusted, read into memory while files can still be read.

In:   OtlpSettings
Out:  PEM bytes
Owns: nothing

The system's bundle goes before certifi's: it holds what the host's administrator added, and it is readable when the
virtual environment is not.
"""

import ssl
from pathlib import Path

from otel_ebpf.errors import AgentError
from otel_ebpf.otlp_settings import OtlpSettings

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",
)


def read_trusted(settings: OtlpSettings) -> bytes:
    """The named bundle, else OpenSSL's own (SSL_CERT_FILE moves it), the system's, certifi's."""
    if settings.certificate:
        return read_pem(settings.certificate, "OTEL_EXPORTER_OTLP_CERTIFICATE")
    for path in (ssl.get_default_verify_paths().cafile, *SYSTEM_BUNDLES, _certifi_bundle()):
        try:
            if path and (found := Path(path).read_bytes()):
                return found
        except OSError:
            continue
    raise AgentError(
        "cannot verify the collector's certificate: this host has no bundle of certificate authorities.",
        "Install the package ca-certificates, or name a bundle in OTEL_EXPORTER_OTLP_CERTIFICATE.",
    )


def read_pem(path: str, setting: str) -> bytes:
    """A file that a setting names; both are in the error."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AgentError(f"cannot read {setting}={path}: {error.strerror}.", "Name a PEM file that exists.") from error


def client_context(settings: OtlpSettings) -> ssl.SSLContext:
    """A TLS client that needs no file any more."""
    try:
        context = ssl.create_default_context(cadata=read_trusted(settings).decode("ascii", "ignore"))
    except ssl.SSLError as error:
        raise _unusable("OTEL_EXPORTER_OTLP_CERTIFICATE", settings.certificate, error) from error
    if settings.client_certificate:
        try:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
        except (ssl.SSLError, OSError) as error:
            raise _unusable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", settings.client_certificate, error) from error
    return context


def _unusable(setting: str, value: str | None, error: OSError) -> AgentError:
    return AgentError(f"cannot use {setting}={value}: {error}.", "It has to be a PEM file, its key a PEM file as well.")


def _certifi_bundle() -> str | None:
    try:
        import certifi
    except ImportError:  # it comes with requests, which nothing here needs
        return None
    return certifi.where()
