"""Sends responses: adds common headers, and sends large bodies in pieces as fast as the client reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes of a piece, and seconds within which the client must have read the previous one.
PIECE_BYTES, STALL_S = 256 * 2**10, 20.0
#: Default headers. The page and the API documentation set their own.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_LOG = logging.getLogger(__name__)


class Sending:
    """Middleware: adds security headers for browsers, and sends large bodies in pieces.

    A client that does not read a piece for STALL_S is disconnected, which cancels its request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                await send(message)
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            for start in range(0, max(len(body), 1), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                is_last = start + PIECE_BYTES >= len(body)
                await _within_time(send({**message, "body": piece, "more_body": more or not is_last}))

        try:
            await self._app(scope, receive, sent)
        except _Stalled:
            _LOG.warning("disconnected a client that did not read its response for %g s", STALL_S)


class _Stalled(Exception):
    """The client does not read its response."""


async def _within_time(sending: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(sending, STALL_S)
    except asyncio.TimeoutError:
        raise _Stalled() from None
