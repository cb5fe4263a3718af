"""Assembles the gateway: routes, middleware and error handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from flux_client import FAIL_OVER, AsyncFluxClient
from flux_gateway.access_control import AccessControl, BodyLimits
from flux_gateway.access_log import AccessLog
from flux_gateway.admission import Admission, Memory
from flux_gateway.answers import answer_of
from flux_gateway.api_docs import api_docs
from flux_gateway.content_filter import ContentFilter, content_filter
from flux_gateway.cross_origin import AllowedHosts, CrossOriginProtection
from flux_gateway.generation import Generator
from flux_gateway.generation_service import ClientDisconnected, GenerationService
from flux_gateway.genserve.routes import genserve
from flux_gateway.head_requests import HeadRequests
from flux_gateway.hosts import host_name
from flux_gateway.jobs.job import GenerationJob
from flux_gateway.jobs.routes import jobs
from flux_gateway.jobs.runner import JobRunner
from flux_gateway.keys import Keys
from flux_gateway.metrics import Metrics
from flux_gateway.openai_images.models import openai_models
from flux_gateway.openai_images.routes import openai_images
from flux_gateway.page.routes import Page, page_files
from flux_gateway.proxies import Networks, PublicUrl, TrustedProxies
from flux_gateway.refusals import CLIENT_CLOSED_REQUEST, RETRY_AFTER_S, Refusal
from flux_gateway.results import ResultStore
from flux_gateway.sending import Sending
from flux_gateway.server_monitor import ServerMonitor
from flux_gateway.settings import Settings, listed
from flux_gateway.tracing import TracedRequests, Tracing

#: For the API description only. AccessControl checks the keys.
_BEARER = HTTPBearer(auto_error=False, description="An API key.")


def make_app(
    settings: Settings, client: AsyncFluxClient | None = None, filtering: ContentFilter | None = None
) -> FastAPI:
    """Create the application. client, filtering: used instead of those that the settings name.

    Raises CannotStart: the key file or the content filter cannot be used, or the packages for tracing are missing.
    """
    # Another Triton server may have room. The number of attempts is small, because callers can retry themselves.
    client = client or AsyncFluxClient(
        settings.triton, timeout_s=settings.timeout_s, retry=replace(FAIL_OVER, attempts=5)
    )
    monitor = ServerMonitor(client)
    keys = Keys.from_file(settings.keys_file)
    memory = Memory(settings.in_flight_bytes, settings.in_flight_bytes_per_caller)
    admission = Admission(settings.concurrency, settings.concurrency_per_caller, memory=memory)
    metrics = Metrics()
    tracing = Tracing(settings.traces_url)
    filtering = filtering or content_filter(settings.content_filter)
    service = GenerationService(
        Generator(client, settings.timeout_s), monitor, admission, metrics, filtering, settings.pixels
    )
    results = ResultStore(settings.result_limits)
    runner = JobRunner(results)
    metrics.shows("in_work", "Generation requests in flight.", lambda: admission.running)
    metrics.shows("in_flight_bytes", "Memory reserved for requests in flight.", lambda: admission.bytes_in_flight)
    metrics.shows("jobs", "Jobs, running or kept.", lambda: results.count(GenerationJob))
    metrics.shows("result_bytes", "Bytes kept or reserved for results: jobs and URL images.", lambda: results.size)
    metrics.shows("ready", "1 if at least one mode is ready.", lambda: monitor.reason is None)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with monitor.looking():
            yield
        await runner.close()
        results.close()
        await client.close()
        await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="flux-triton",
        version=version("flux-triton"),
        description="FLUX.1 Redux, image-to-image, text-to-image and edge control.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_BEARER)] if settings.keys_file else [],
    )
    page = Page()
    routers = [
        genserve(service, settings.loras),
        openai_images(service, results),
        openai_models(service),
        jobs(service, runner, results),
        page_files(page),
        api_docs(app.title, str(app.openapi_url)),
    ]
    for router in routers:
        app.include_router(router)
    _add_service_routes(app, service, metrics, page)
    _add_error_handlers(app)
    _add_middleware(app, settings, keys, admission, tracing)
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    paths = [path for route in routes if (path := getattr(route, "path", None))]
    app.add_middleware(AccessLog, paths=paths, answered=metrics.answered)
    return app


def _add_middleware(app: FastAPI, settings: Settings, keys: Keys, admission: Admission, tracing: Tracing) -> None:
    """Add the middleware, starting with the innermost."""
    app.add_middleware(HeadRequests)
    app.add_middleware(
        AccessControl,
        keys=keys,
        admission=admission,
        body_limits=BodyLimits(settings.body_bytes, settings.body_timeout_s),
        metrics_open=settings.metrics_open,
    )
    app.add_middleware(PublicUrl, url=settings.public_url)
    origins = [origin.rstrip("/") for origin in listed(settings.origins)]
    app.add_middleware(
        CrossOriginProtection, hosts=_allowed_hosts(settings), origins=origins, public_url=settings.public_url
    )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "Retry-After"],
    )
    app.add_middleware(TrustedProxies, trusted=Networks(settings.trusted_proxies))
    app.add_middleware(TracedRequests, tracing=tracing)
    app.add_middleware(Sending)


def _allowed_hosts(settings: Settings) -> AllowedHosts | None:
    """Return the allowed hosts. None: any, because a page that uses DNS rebinding does not have the required key."""
    names = listed(settings.hosts)
    if settings.keys_file and not names:
        return None
    if settings.public_url:
        names.append(host_name(urlsplit(settings.public_url).netloc))
    return AllowedHosts(settings.host, names)


def _add_service_routes(app: FastAPI, service: GenerationService, metrics: Metrics, page: Page) -> None:
    @app.get("/", summary="Show the web page, or list the endpoints as JSON", tags=["service"])
    async def root(request: Request) -> Response:
        """Return the web page to a browser, and the list of endpoints to other clients."""
        if "text/html" in request.headers.get("accept", ""):
            response = await page.file("index.html", request)
        else:
            about = {"name": "flux-triton", "version": app.version, "status": service.monitor.reason or "running"}
            response = JSONResponse({**about, "endpoints": sorted(app.openapi()["paths"])})
        response.headers["Vary"] = "Accept"
        return response

    @app.get("/metrics", summary="Get metrics for Prometheus", tags=["service"], response_class=PlainTextResponse)
    async def scraped() -> Response:
        """Return metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/health",
        summary="Check whether a mode is served",
        tags=["service"],
        responses={503: {"description": "No mode is ready."}},
    )
    async def health() -> JSONResponse:
        """Return 200 if at least one mode is ready."""
        reason = service.monitor.reason
        if reason is None:
            side = service.monitor.native_side if service.monitor.knows_native_side else None
            return JSONResponse({"status": "healthy", "modes": service.monitor.modes, "native_side": side})
        return JSONResponse(
            {"status": "unhealthy", "success": False, "error": reason, "detail": reason},
            503,
            {"Retry-After": str(RETRY_AFTER_S)},
        )


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error with JSON in the format of the called API."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return answer_of(refusal, request.scope)

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        response = answer_of(Refusal(error.status_code, str(error.detail)), request.scope)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnected)
    async def gone(request: Request, error: ClientDisconnected) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        refusal = Refusal(500, f"unexpected {type(error).__name__}; the gateway's log has the details")
        return answer_of(refusal, request.scope)
