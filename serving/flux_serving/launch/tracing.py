"""Triton's part of OpenTelemetry's variables, which Triton itself does not read."""

from __future__ import annotations

from collections.abc import Mapping

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def traces_url(environment: Mapping[str, str]) -> str:
    """Where spans go, by OTLP over HTTP; empty: there are none."""
    endpoint = environment.get(ENDPOINT_VARIABLE, "").rstrip("/")
    return f"{endpoint}/v1/traces" if endpoint else ""


def trace_arguments(url: str) -> list[str]:
    """For tritonserver: every request is traced, with a span for each model that it passes."""
    if not url:
        return []
    settings = ("mode=opentelemetry", "rate=1", "level=TIMESTAMPS", f"opentelemetry,url={url}")
    return [f"--trace-config={setting}" for setting in settings]
