"""An id for each request, and one line of log."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux_gateway.refusals import NOBODY_THERE

#: Methods that are told apart; a caller may send any word.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
_LOG = logging.getLogger("flux_gateway.access")


class AccessLog:
    """Gives each request an id, which Triton's requests of it have too, and logs one JSON line for it.

    Neither bodies nor headers nor the query are logged: they may hold images or keys. Of the path only the route is
    logged, such as `/v1/images/files/{name}`, because such a name is a credential; an unknown path is `other`.
    """

    def __init__(self, app: ASGIApp, paths: Iterable[str], answered: Callable[[str, str, int, float], None]) -> None:
        """paths: of the routes. answered: is told each request's method, route, status and seconds."""
        self._app = app
        self._paths = RoutePaths(paths)
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
            method = scope["method"] if scope["method"] in _METHODS else OTHER
            route = self._paths.of(scope["path"])
            self._answered(method, route, status, seconds)
            line = {
                "id": request_id,
                "client": client[0] if client else None,
                "caller": scope["state"].get("caller"),
                "method": method,
                "path": route,
                "status": status,
                "seconds": round(seconds, 3),
            }
            _LOG.info(json.dumps(line))


class RoutePaths:
    """Paths of routes, such as `/v1/jobs/{job_id}`, by the paths that are asked for."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = [(compile_path(path)[0], path) for path in dict.fromkeys(paths)]

    def of(self, asked: str) -> str:
        """Also for a request that is refused before it is routed."""
        return next((path for pattern, path in self._paths if pattern.match(asked)), OTHER)
