"""Distributed tracing: forwards the W3C `traceparent` header of a request to Triton.

If an endpoint for spans is configured, each POST is exported as a span by OpenTelemetry's SDK, which is imported only
then. Otherwise, the header is forwarded unchanged.
"""

# The middleware does not use `opentelemetry-instrumentation-asgi`, which does not forward `traceparent` without an SDK,
# the purpose of most of this module. It excludes requests by URL instead of method, so all paths of probes and scrapes
# would have to be listed. It adds at least four packages, three of which (0.x) are pinned to one release of the
# semantic conventions.

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux_contract.errors import CannotStart

if TYPE_CHECKING:
    from opentelemetry.trace import Span

HEADER = "traceparent"
_WELL_FORMED = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_CURRENT: ContextVar[str | None] = ContextVar(HEADER, default=None)


def current_traceparent() -> str | None:
    """Return the header to forward with the current request. Tasks that the request starts inherit it."""
    return _CURRENT.get()


class Tracing:
    """Tracing of one gateway. Create it before the first request, and close it after the last."""

    def __init__(self, url: str) -> None:
        """url: OTLP/HTTP endpoint; empty for no spans. Raises CannotStart: `flux-triton[tracing]` is not installed."""
        self._spans = _Spans(url) if url else None

    def close(self) -> None:
        """Export the remaining spans."""
        if self._spans is not None:
            self._spans.close()

    @contextmanager
    def request(self, scope: Scope, came: str | None) -> Iterator[Callable[[int], None]]:
        """Trace the block. came: the request's header. Yields a function to call with the response's status."""
        well_formed = came if came and _WELL_FORMED.fullmatch(came) else None
        if self._spans is None:
            with _with_current(well_formed):
                yield lambda status: None
            return
        with self._spans.of(scope, well_formed) as (span, traceparent), _with_current(traceparent):
            yield lambda status: span.set_attribute("http.response.status_code", status)


class TracedRequests:
    """Middleware that traces POST requests. Other requests only read health, metrics and files."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with self._tracing.request(scope, Headers(scope=scope).get(HEADER)) as answered:
            await self._app(scope, receive, _observed(send, answered))


class _Spans:
    """Spans of OpenTelemetry. Its variables apply, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER."""

    def __init__(self, url: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise CannotStart(
                f'tracing is enabled, but its packages are missing: {error}; run: pip install "flux-triton[tracing]"'
            ) from error
        resource = Resource({"service.name": "flux-gateway"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("flux_gateway")
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER

    def close(self) -> None:
        self._provider.shutdown()

    @contextmanager
    def of(self, scope: Scope, came: str | None) -> Iterator[tuple[Span, str]]:
        """Yield a span that continues the request's trace, and the header with which Triton continues it."""
        context = self._propagator.extract({HEADER: came} if came else {})
        attributes = {"http.request.method": scope["method"], "flux.request_id": scope["state"]["id"]}
        with self._tracer.start_as_current_span(
            scope["method"], context=context, kind=self._kind, attributes=attributes
        ) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            try:
                yield span, carrier[HEADER]
            finally:
                route = getattr(scope.get("route"), "path", "other")
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)


@contextmanager
def _with_current(traceparent: str | None) -> Iterator[None]:
    token = _CURRENT.set(traceparent)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _observed(send: Send, answered: Callable[[int], None]) -> Callable[[Message], Awaitable[None]]:
    async def send_observed(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered(message["status"])
        await send(message)

    return send_observed
