"""OpenAI's endpoints for images."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from flux_client import Variation
from flux_gateway.conversions import converted
from flux_gateway.desk import Desk, while_there
from flux_gateway.kept import Kept
from flux_gateway.openai_images.bodies import ErrorAnswer, ImageDatum, ImagesAnswer, size_of
from flux_gateway.openai_images.events import streamed
from flux_gateway.openai_images.schema import EditsRequest, GenerationsRequest, ImagesRequest, VariationsRequest
from flux_gateway.pictures import as_text
from flux_gateway.reading import body_of, read
from flux_gateway.refusals import Refusal, documented

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
            slot = desk.slot(request)
            asked = await read(request, schema)
            wanted = asked.wanted()
            if asked.stream:
                events = desk.events(slot, wanted, request.state.id, asked.partial_images > 0)
                # What is refused is refused with its status, before the answer begins.
                first = await while_there(request, anext(events))
                return StreamingResponse(streamed(first, events, event, asked), media_type="text/event-stream")
            variations = await desk.made(request, slot, wanted, request.state.id)

            def body() -> str:
                answer = ImagesAnswer(
                    created=int(time.time()),
                    data=[_datum(request, asked, variation, kept) for variation in variations],
                    size=size_of(variations[0]),
                    output_format=asked.output_format,
                )
                return answer.model_dump_json(exclude_none=True)

            # URLs are short.
            is_text = asked.response_format == "b64_json"
            size = sum(len(variation.data) for variation in variations) if is_text else 0
            return Response(await converted(size, body), media_type="application/json")

        kind = "application/json" if schema is GenerationsRequest else "multipart/form-data"
        router.post(
            f"/{name}",
            name=name,
            response_model=ImagesAnswer,
            responses={200: {"content": {"text/event-stream": {}}}, **documented(ErrorAnswer)},
            openapi_extra=body_of(schema, kind),
        )(answered)

    for name, (schema, event) in _ENDPOINTS.items():
        endpoint(name, schema, event)

    @router.get("/files/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        """A picture by its URL, for as long as it is kept; whoever has the URL may see it."""
        found = kept.get(name)
        if found is None:
            raise Refusal(404, "there is no such picture, or not any more")
        data, kind = found
        request.state.slot.reserve(len(data))
        return Response(data, media_type=kind, headers={"Cache-Control": "private, no-store"})

    return router


def _datum(request: Request, asked: ImagesRequest, variation: Variation, kept: Kept) -> ImageDatum:
    if asked.response_format == "b64_json":
        return ImageDatum(b64_json=as_text(variation.data), seed=variation.seed)
    name = kept.put(variation.data, f"image/{asked.output_format}")
    return ImageDatum(url=str(request.url_for("file", name=name)), seed=variation.seed)
