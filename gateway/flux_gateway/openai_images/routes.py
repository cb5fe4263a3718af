"""OpenAI's endpoints for images."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from flux_client import ImageResult
from flux_gateway.conversions import converted
from flux_gateway.generation_service import GenerationService, while_there
from flux_gateway.images import as_text, max_encoded_bytes
from flux_gateway.openai_images.bodies import ErrorAnswer, ImageDatum, ImagesAnswer, size_of
from flux_gateway.openai_images.events import streamed
from flux_gateway.openai_images.schema import EditsRequest, GenerationsRequest, ImagesRequest, VariationsRequest
from flux_gateway.reading import body_of, read
from flux_gateway.refusals import Refusal, documented
from flux_gateway.results import Reservation, ResultStore

#: Request, prefix of the event types and summary, by the last part of the path.
_ENDPOINTS: dict[str, tuple[type[ImagesRequest], str, str]] = {
    "generations": (GenerationsRequest, "image_generation", "Generate images from a prompt"),
    "edits": (EditsRequest, "image_edit", "Change an image, or the masked part of it, by a prompt"),
    "variations": (VariationsRequest, "image_variation", "Generate variations of one or more images with FLUX.1 Redux"),
}


@dataclass(frozen=True)
class StoredImage:
    """An image returned as a URL. kind: media type."""

    data: bytes = field(repr=False)
    kind: str


def openai_images(service: GenerationService, results: ResultStore) -> APIRouter:
    """Return the routes of OpenAI's images API. results: store of images returned as URLs."""
    router = APIRouter(prefix="/v1/images", tags=["OpenAI"])

    def endpoint(name: str, schema: type[ImagesRequest], event: str, summary: str) -> None:
        async def answered(request: Request) -> Response:
            slot = service.slot(request)
            asked = await read(request, schema)
            wanted = asked.wanted()
            if asked.stream:
                events = service.events(slot, wanted, request.state.id, asked.partial_images > 0)
                # An error before the first event is answered with its status.
                first = await while_there(request, anext(events))
                return StreamingResponse(
                    streamed(first, events, event, asked.partial_images, wanted.output_format),
                    media_type="text/event-stream",
                )
            most_bytes = max_encoded_bytes(*service.checked_size(wanted))
            with _reserved(results, slot.caller.name, asked, wanted.count, most_bytes) as rooms:
                images = await service.made(request, slot, wanted, request.state.id)
                urls = [_stored(request, wanted.output_format, *each) for each in zip(images, rooms, strict=True)]

            def body() -> str:
                answer = ImagesAnswer(
                    created=int(time.time()),
                    data=[_datum(*each) for each in zip(images, urls, strict=True)],
                    size=size_of(images[0]),
                    output_format=wanted.output_format,
                )
                return answer.model_dump_json(exclude_none=True)

            # URLs are short.
            is_text = asked.response_format == "b64_json"
            size = sum(len(result.data) for result in images) if is_text else 0
            return Response(await converted(size, body), media_type="application/json")

        kinds = ["application/json"] if schema is GenerationsRequest else ["multipart/form-data", "application/json"]
        router.post(
            f"/{name}",
            name=name,
            summary=summary,
            description="Returns the images as base64 or URLs, or, with `stream`, server-sent events with previews.",
            response_model=ImagesAnswer,
            responses={200: {"content": {"text/event-stream": {}}}, **documented(ErrorAnswer)},
            openapi_extra=body_of(schema, *kinds),
        )(answered)

    for name, (schema, event, summary) in _ENDPOINTS.items():
        endpoint(name, schema, event, summary)

    @router.get("/files/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        """Return a stored image. No key is required."""
        found = results.get(name, StoredImage)
        if found is None:
            raise Refusal(404, "the image does not exist or has expired")
        image, _ = found
        request.state.slot.reserve(len(image.data))
        return Response(image.data, media_type=image.kind, headers={"Cache-Control": "private, no-store"})

    @router.delete("/files/{name}", include_in_schema=False)
    async def remove(request: Request, name: str) -> Response:
        """Delete one of the caller's images."""
        found = results.get(name, StoredImage)
        if found is None or found[1].owner != service.caller(request).name:
            raise Refusal(404, "the image does not exist or has expired")
        found[1].release()
        return Response(status_code=204)

    return router


@contextmanager
def _reserved(
    results: ResultStore, owner: str, asked: ImagesRequest, count: int, most_bytes: int
) -> Iterator[Sequence[Reservation | None]]:
    """Reserve space for each image that is requested as a URL, and release unused space at the end.

    count: number of images. most_bytes: maximum of one image. Raises Refusal as `ResultStore.reserve`.
    """
    if asked.response_format == "b64_json":
        yield [None] * count
        return
    rooms = results.reserve(owner, count, most_bytes)
    try:
        yield rooms
    finally:
        for room in rooms:
            if room.expires_at is None:
                room.release()


def _stored(request: Request, output_format: str, result: ImageResult, room: Reservation | None) -> str | None:
    """Store an image and return its URL. room: None for an image returned as base64."""
    if room is None:
        return None
    name = secrets.token_urlsafe(24)
    room.publish(name, StoredImage(result.data, f"image/{output_format}"))
    room.keep(len(result.data))
    return str(request.url_for("file", name=name))


def _datum(result: ImageResult, url: str | None) -> ImageDatum:
    if url is None:
        return ImageDatum(b64_json=as_text(result.data), seed=result.seed)
    return ImageDatum(url=url, seed=result.seed)
