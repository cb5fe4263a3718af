"""The gateway within the test's process, asked over ASGI, with a Triton that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from flux_client import AsyncFluxClient, RetryPolicy
from flux_client.fake import AsyncFakeTransport
from flux_gateway.app import make_app
from flux_gateway.content_filter import ContentFilter
from flux_gateway.settings import Settings


@asynccontextmanager
async def gateway(
    transport: AsyncFakeTransport | None = None,
    settings: Settings | None = None,
    content_filter: ContentFilter | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
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
    """The app after its first look at Triton, which, where Triton is ready, asks for the size of its images."""
    app = make_app(settings, client, content_filter)
    fake = client._transport.fake  # type: ignore[attr-defined]
    async with app.router.lifespan_context(app):
        for _ in range(40):
            await asyncio.sleep(0.05)
            if fake.sent or not fake.ready:
                break
        yield app
