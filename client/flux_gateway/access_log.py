"""An id for each request, and one line of log."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux_gateway.refusals import NOBODY_THERE

_LOG = logging.getLogger("flux_gateway.access")


class AccessLog:
    """Gives each request an id, which Triton's requests of it have too, and logs one JSON line for it.

    Neither bodies nor headers nor the query are logged: they may hold pictures or keys.
    """

    def __init__(self, app: ASGIApp, answered: Callable[[str, str, int, float], None]) -> None:
        """answered: is told each request's method, route, status and seconds."""
        self._app = app
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), NOBODY_THERE
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = request_id

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, told)
        except Exception:
            # Answered further out, where nobody tells.
            status = 500
            raise
        finally:
            client, seconds = scope.get("client"), time.monotonic() - started
            route = getattr(scope.get("route"), "path", "other")
            self._answered(scope["method"] if route != "other" else "other", route, status, seconds)
            line = {
                "id": request_id,
                "client": client[0] if client else None,
                "caller": scope["state"].get("caller"),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 3),
            }
            _LOG.info(json.dumps(line))
