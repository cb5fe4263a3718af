"""What Prometheus scrapes of the gateway; Triton's own metrics tell of the models."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Seconds: from a health check to an image of many steps.
_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One gateway's. Labels take a few values only: the path is the route's, such as `/v1/jobs/{job_id}`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "flux_gateway_requests", "Requests answered.", ("method", "path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "flux_gateway_request_seconds",
            "From a request to the end of its answer.",
            ("path",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._generations = Counter(
            "flux_gateway_generations",
            "Generations that were let in, by how they ended: done, failed, withheld or cancelled.",
            ("mode", "outcome"),
            registry=self._registry,
        )

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        self._requests.labels(method, path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def ended(self, mode: str, outcome: str) -> None:
        self._generations.labels(mode, outcome).inc()

    def shows(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for its value at each scrape."""
        Gauge(f"flux_gateway_{name}", meaning, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
