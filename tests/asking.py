"""The gateway within the test's process, asked over ASGI, with a Triton that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

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
    client = AsyncFluxClient(transport=transport or AsyncFakeTransport(), retry=RetryPolicy(attempts=1))
    app = make_app(settings or Settings(), client, content_filter)
    async with app.router.lifespan_context(app):
        # It has looked at Triton by then.
        await asyncio.sleep(0.05)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as caller:
            yield caller
