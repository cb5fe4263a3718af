"""No body larger than allowed is read."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Raises HTTPException, 413, where a body is read that is larger than it may be, or says so."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0
        announced = dict(scope["headers"]).get(b"content-length", b"0")

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most or (announced.isdigit() and int(announced) > self._most):
                raise HTTPException(413, f"the body is too large, expected at most {self._most} bytes")
            return message

        await self._app(scope, counted, send)
