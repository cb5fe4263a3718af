"""The gateway within the test's process, asked over ASGI, with a Triton that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from flux_client import AsyncFluxClient, RetryPolicy
from flux_client.fake import AsyncFakeTransport, FakeTransport
from flux_gateway.app import make_app
from flux_gateway.content_filter import ContentFilter
from flux_gateway.settings import Settings


async def _has_looked(fake: FakeTransport) -> None:
    """Wait until it knows whether Triton is ready, and where it is, of which size its images are."""
    for _ in range(40):
        await asyncio.sleep(0.05)
        if fake.sent or not fake.ready:
            break


@asynccontextmanager
async def gateway(
    transport: AsyncFakeTransport | None = None,
    settings: Settings | None = None,
    content_filter: ContentFilter | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    client_transport = transport or AsyncFakeTransport()
    client = AsyncFluxClient(transport=client_transport, retry=RetryPolicy(attempts=1))
    app = make_app(settings or Settings(), client, content_filter)
    async with app.router.lifespan_context(app):
        await _has_looked(client_transport.fake)
        client_transport.fake.sent.clear()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as caller:
            yield caller
