"""The API documentation: Swagger UI, with scripts served by the gateway itself."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response


def api_docs(title: str, openapi_url: str) -> APIRouter:
    router = APIRouter(prefix="/docs", include_in_schema=False)
    # The Swagger UI version that FastAPI uses.
    static = StaticFiles(packages=[("fastapi_offline", "static")])
    page = get_swagger_ui_html(
        openapi_url=openapi_url,
        title=title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    headers = {"Content-Security-Policy": _policy(bytes(page.body).decode())}

    @router.get("")
    async def docs() -> Response:
        return Response(page.body, media_type="text/html", headers=headers)

    @router.get("/{name}")
    async def file(name: str, request: Request) -> Response:
        response = await static.get_response(name, request.scope)
        response.headers["Cache-Control"] = "private, max-age=86400"
        return response

    return router


def _policy(page: str) -> str:
    """Return the Content-Security-Policy: inline styles, and the page's inline script by its hash."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'self'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )
