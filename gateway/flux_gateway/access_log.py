"""Assigns an id to each request and logs it."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux_gateway.refusals import CLIENT_CLOSED_REQUEST

#: Methods in logs and metrics. Callers may send any other word, which counts as `other`.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
_LOG = logging.getLogger("flux_gateway.access")


class AccessLog:
    """Middleware: assigns an id to each request, which its requests to Triton share, and logs one JSON line.

    Bodies, headers and queries are not logged, because they may contain images or keys. Instead of the path, the route
    is logged, such as `/v1/images/files/{name}`, because the name is a credential; an unknown path is `other`.
    """

    def __init__(self, app: ASGIApp, paths: Iterable[str], answered: Callable[[str, str, int, float], None]) -> None:
        """paths: of the routes. answered: called with the method, route, status and seconds of each request."""
        self._app = app
        self._paths = RoutePaths(paths)
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), CLIENT_CLOSED_REQUEST
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = request_id

        async def send_logged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_logged)
        except Exception:
            # An outer layer sends the response, without calling `send_logged`.
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
    """Maps requested paths to routes, such as `/v1/jobs/{job_id}`."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = [(compile_path(path)[0], path) for path in dict.fromkeys(paths)]

    def of(self, asked: str) -> str:
        """Return the route of a path, also for a request that is rejected before it is routed."""
        return next((path for pattern, path in self._paths if pattern.match(asked)), OTHER)
