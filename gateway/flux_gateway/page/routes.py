"""The page: its files, and its part of the contract as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi import APIRouter, Response

from flux_gateway.page.contract import page_contract
from flux_gateway.refusals import Refusal

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page:
    """The page's files, read once, and `contract.json`, built once."""

    def __init__(self) -> None:
        files = [file for file in Path(__file__).parent.iterdir() if file.suffix in _KINDS]
        self._files = {file.name: (file.read_bytes(), _KINDS[file.suffix]) for file in files}
        self._files["contract.json"] = (json.dumps(page_contract()).encode(), "application/json")

    def file(self, name: str) -> Response:
        """Raises Refusal: 404."""
        if name not in self._files:
            raise Refusal(404, "there is no such file")
        content, kind = self._files[name]
        return Response(content, media_type=kind, headers=_HEADERS)


def page_files(page: Page) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False)

    @router.get("/{name}")
    async def file(name: str) -> Response:
        return page.file(name)

    return router
