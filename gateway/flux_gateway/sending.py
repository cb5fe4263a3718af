"""Answers on their way: common headers, and no more in memory than the peer takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes that are sent at once, and seconds within which the peer must have taken the piece before.
PIECE_BYTES, STALL_S = 256 * 2**10, 20.0
#: Where an answer does not say otherwise; the page and the API's documentation do.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_LOG = logging.getLogger(__name__)


class Sending:
    """Middleware: adds the headers that tell browsers what an answer may do, and sends large bodies piece by piece.

    A peer that takes no piece for STALL_S is dropped, and with it what it asked for.
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
            _LOG.warning("dropped a client that took nothing of its answer for %g s", STALL_S)


class _Stalled(Exception):
    """The peer does not read."""


async def _within_time(sending: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(sending, STALL_S)
    except asyncio.TimeoutError:
        raise _Stalled() from None
