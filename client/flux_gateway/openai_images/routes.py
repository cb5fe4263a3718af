"""OpenAI's endpoints for images."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from flux_client import Variation
from flux_gateway.desk import Desk, while_there
from flux_gateway.kept import Kept
from flux_gateway.openai_images.events import streamed
from flux_gateway.openai_images.schema import EditsRequest, GenerationsRequest, ImagesRequest, VariationsRequest
from flux_gateway.reading import read, schema_of
from flux_gateway.refusals import Refusal

#: By the end of the path: what is read, and how its events are called.
_ENDPOINTS: dict[str, tuple[type[ImagesRequest], str]] = {
    "generations": (GenerationsRequest, "image_generation"),
    "edits": (EditsRequest, "image_edit"),
    "variations": (VariationsRequest, "image_variation"),
}


def openai_images(desk: Desk, kept: Kept) -> APIRouter:
    """kept: pictures that are given by their URL."""
    router = APIRouter(prefix="/v1/images", tags=["OpenAI"])

    def endpoint(name: str, schema: type[ImagesRequest], event: str) -> None:
        async def answered(request: Request) -> Response:
            caller = desk.caller(request)
            asked = await read(request, schema)
            wanted = asked.wanted()
            if asked.stream:
                events = desk.events(caller, wanted, request.state.id, asked.partial_images > 0)
                # What is refused is refused with its status, before the answer begins.
                first = await while_there(request, anext(events))
                return StreamingResponse(streamed(first, events, event, asked), media_type="text/event-stream")
            variations = await desk.made(request, caller, wanted, request.state.id)
            data = [_datum(request, asked, variation, kept) for variation in variations]
            return JSONResponse({"created": int(time.time()), "data": data, **_form_of(asked, variations)})

        kind = "application/json" if schema is GenerationsRequest else "multipart/form-data"
        router.post(
            f"/{name}",
            name=name,
            openapi_extra={"requestBody": {"required": True, "content": {kind: {"schema": schema_of(schema)}}}},
        )(answered)

    for name, (schema, event) in _ENDPOINTS.items():
        endpoint(name, schema, event)

    @router.get("/files/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        """A picture by its URL, for as long as it is kept; whoever has the URL may see it."""
        found = kept.get(name)
        if found is None:
            raise Refusal(404, "there is no such picture, or not any more")
        data, kind = found
        return Response(data, media_type=kind, headers={"Cache-Control": "private, no-store"})

    return router


def _datum(request: Request, asked: ImagesRequest, variation: Variation, kept: Kept) -> dict[str, Any]:
    if asked.response_format == "b64_json":
        return {"b64_json": base64.b64encode(variation.data).decode(), "seed": variation.seed}
    name = kept.put(variation.data, f"image/{asked.output_format}")
    return {"url": str(request.url_for("file", name=name)), "seed": variation.seed}


def _form_of(asked: ImagesRequest, variations: Sequence[Variation]) -> dict[str, Any]:
    width, height = variations[0].image.size
    return {"size": f"{width}x{height}", "output_format": asked.output_format, "background": "opaque"}
