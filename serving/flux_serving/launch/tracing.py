"""Passes OpenTelemetry's standard variable on to Triton, which does not read it."""

from __future__ import annotations

from collections.abc import Mapping

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def traces_url(environment: Mapping[str, str]) -> str:
    """Returns the URL to which spans are sent, by OTLP over HTTP; empty if tracing is disabled."""
    endpoint = environment.get(ENDPOINT_VARIABLE, "").rstrip("/")
    return f"{endpoint}/v1/traces" if endpoint else ""


def trace_arguments(url: str) -> list[str]:
    """Returns arguments of tritonserver that trace every request, with a span for each model that it passes."""
    if not url:
        return []
    settings = ("mode=opentelemetry", "rate=1", "level=TIMESTAMPS", f"opentelemetry,url={url}")
    return [f"--trace-config={setting}" for setting in settings]
