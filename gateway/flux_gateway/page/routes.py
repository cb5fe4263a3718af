"""The page: its files, and its part of the contract as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.staticfiles import StaticFiles

from flux_gateway.page.contract import page_contract
from flux_gateway.refusals import Refusal

#: The folder holds this module, too.
_SUFFIXES = (".html", ".css", ".js", ".svg")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page:
    """The page's files, and `contract.json`, built once."""

    def __init__(self) -> None:
        self._files = StaticFiles(directory=Path(__file__).parent)
        self._contract = json.dumps(page_contract()).encode()

    async def file(self, name: str, request: Request) -> Response:
        """Raises Refusal or HTTPException: 404."""
        if name == "contract.json":
            return Response(self._contract, media_type="application/json", headers=_HEADERS)
        if not name.endswith(_SUFFIXES):
            raise Refusal(404, "there is no such file")
        response = await self._files.get_response(name, request.scope)
        response.headers.update(_HEADERS)
        return response


def page_files(page: Page) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False)
    router.add_api_route("/{name}", page.file)
    return router
