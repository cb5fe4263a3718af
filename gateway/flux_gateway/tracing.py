"""One trace from whoever asks to Triton's models: W3C's `traceparent` is taken, and passed on with the request.

Where there is a place for spans, each POST is one, exported by OpenTelemetry's SDK, which is loaded only then; where
there is none, what came is passed on as it is.
"""

# The middleware does not use `opentelemetry-instrumentation-asgi`: it does not pass `traceparent` on without an SDK,
# which needs most of this module. It excludes requests by URL, not by method, so every path of probes and scrapes would
# have to be listed. It adds at least four packages, three of which (0.x) are pinned to one release of the semantic
# conventions.

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
    """What to pass on with the request in whose context, or in a task begun in it, this is called."""
    return _CURRENT.get()


class Tracing:
    """Of one gateway: made before its first request, closed after its last."""

    def __init__(self, url: str) -> None:
        """url: for OTLP over HTTP; empty: no spans. Raises CannotStart: `flux-triton[tracing]` is not installed."""
        self._spans = _Spans(url) if url else None

    def close(self) -> None:
        """Export what is left."""
        if self._spans is not None:
            self._spans.close()

    @contextmanager
    def request(self, scope: Scope, came: str | None) -> Iterator[Callable[[int], None]]:
        """came: the header. Gives what is to be told the answer's status."""
        well_formed = came if came and _WELL_FORMED.fullmatch(came) else None
        if self._spans is None:
            with _passed_on(well_formed):
                yield lambda status: None
            return
        with self._spans.of(scope, well_formed) as (span, traceparent), _passed_on(traceparent):
            yield lambda status: span.set_attribute("http.response.status_code", status)


class TracedRequests:
    """Middleware. Only POST is traced: the rest are looks at health, metrics and files."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with self._tracing.request(scope, Headers(scope=scope).get(HEADER)) as answered:
            await self._app(scope, receive, _telling(send, answered))


class _Spans:
    """OpenTelemetry's. Its variables, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER, count."""

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
                f"traces are to be exported, but flux-triton[tracing] is not installed: {error}"
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
        """A span that continues what came, and the header by which Triton continues it."""
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
def _passed_on(traceparent: str | None) -> Iterator[None]:
    token = _CURRENT.set(traceparent)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _telling(send: Send, answered: Callable[[int], None]) -> Callable[[Message], Awaitable[None]]:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered(message["status"])
        await send(message)

    return told
