"""Metrics of the gateway for Prometheus. Triton has the metrics of the models."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Upper bounds in seconds, from a health check to an image with many steps.
_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Metrics of one gateway. Labels have few values: `path` is the route, such as `/v1/jobs/{job_id}`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "flux_gateway_requests", "Requests answered.", ("method", "path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "flux_gateway_request_seconds",
            "Seconds from a request to the end of its response.",
            ("path",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._generations = Counter(
            "flux_gateway_generations",
            "Admitted generations by outcome: done, failed, withheld or cancelled.",
            ("mode", "outcome"),
            registry=self._registry,
        )

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        self._requests.labels(method, path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def ended(self, mode: str, outcome: str) -> None:
        self._generations.labels(mode, outcome).inc()

    def shows(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        Gauge(f"flux_gateway_{name}", meaning, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)
