"""Runs the gateway in the test's process over ASGI, with a fake Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from flux_client import AsyncFluxClient, RetryPolicy
from flux_client.fake import AsyncFakeAnswers, AsyncFakeTransport
from flux_client.request import Request
from flux_client.transport import Answer
from flux_gateway.app import make_app
from flux_gateway.content_filter import ContentFilter
from flux_gateway.settings import Settings


@asynccontextmanager
async def gateway(
    transport: AsyncFakeTransport | None = None,
    settings: Settings | None = None,
    content_filter: ContentFilter | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of a gateway."""
    fake_transport = transport or AsyncFakeTransport()
    client = AsyncFluxClient(transport=fake_transport, retry=RetryPolicy(attempts=1))
    async with started_app(settings or Settings(), client, content_filter) as app:
        fake_transport.fake.sent.clear()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as caller:
            yield caller


@asynccontextmanager
async def started_app(
    settings: Settings, client: AsyncFluxClient, content_filter: ContentFilter | None = None
) -> AsyncIterator[FastAPI]:
    """Yield the app after its first readiness check, in which it requests the image size if Triton is ready."""
    app = make_app(settings, client, content_filter)
    assert isinstance(client._transport, AsyncFakeTransport)
    fake = client._transport.fake
    async with app.router.lifespan_context(app):
        for _ in range(40):
            await asyncio.sleep(0.05)
            if fake.sent or not fake.ready:
                break
        yield app


class Endless(AsyncFakeTransport):
    """A transport that accepts each request and never generates its images."""

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncFakeAnswers:
        class Answers(AsyncFakeAnswers):
            begun = False

            async def __anext__(self) -> Answer:
                if self.begun:
                    await asyncio.sleep(60)
                self.begun = True
                return await super().__anext__()

        return Answers(self.fake.stream(request, timeout_s, request_id))


@asynccontextmanager
async def running(
    settings: Settings, peer: str = "127.0.0.1", transport: AsyncFakeTransport | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of a gateway. peer: the client's address."""
    fake_transport = transport or AsyncFakeTransport()
    client = AsyncFluxClient(transport=fake_transport, retry=RetryPolicy(attempts=1))
    async with started_app(settings, client) as app:
        fake_transport.fake.sent.clear()
        asgi = httpx.ASGITransport(app, client=(peer, 1))
        async with httpx.AsyncClient(transport=asgi, base_url="http://localhost") as http:
            yield http
