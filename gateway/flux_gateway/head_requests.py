"""Supports HEAD on every route that supports GET."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Middleware: answers HEAD with the status and headers of GET, without a body.

    A streamed response, such as a job's events, is cancelled after its headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        # The server, which frames the response, and the log still see HEAD.
        as_get = {**scope, "method": "GET"}
        streams = asyncio.Event()

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
            elif message.get("more_body"):
                streams.set()
                await asyncio.Event().wait()

        answering = asyncio.ensure_future(self._app(as_get, receive, send_head))
        streaming = asyncio.ensure_future(streams.wait())
        try:
            await asyncio.wait((answering, streaming), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            # Copy the result of routing, for metrics.
            scope.update({name: value for name, value in as_get.items() if name not in scope})
            for task in (answering, streaming):
                task.cancel()
            await asyncio.gather(answering, streaming, return_exceptions=True)
