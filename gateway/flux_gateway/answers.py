"""Converts a refusal to a JSON response in the format of the called API."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from flux_gateway.genserve.routes import failed
from flux_gateway.openai_images.bodies import error_body
from flux_gateway.refusals import Refusal


def answer_of(refusal: Refusal, scope: Scope) -> JSONResponse:
    is_openai = scope["path"].startswith("/v1/")
    body: dict[str, Any] = error_body(refusal) if is_openai else failed(refusal, scope["state"]["id"])
    return JSONResponse(body, refusal.status, refusal.headers)


async def answer(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a refusal from middleware."""
    await answer_of(refusal, scope)(scope, receive, send)
