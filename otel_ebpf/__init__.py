"""OpenTelemetry auto-instrumentation for HTTP services, by eBPF."""

__version__ = "0.1.0"
