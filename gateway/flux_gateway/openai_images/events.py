"""A stream of OpenAI's events: partial images, and at the end the images."""

# The streams do not use `sse-starlette`: one line formats an event. Importing it replaces `uvicorn.Server.handle_exit`
# for the whole process, and its response adds pings and a listener for disconnects to those of `GenerationJob` and
# `while_there`.

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from flux_client import Event, ImageResult, Preview, Progress
from flux_gateway.images import as_text
from flux_gateway.openai_images.bodies import error_body, size_of
from flux_gateway.refusals import Refusal


async def streamed(
    first: Event, events: AsyncGenerator[Event, None], name: str, partial_images: int, output_format: str
) -> AsyncGenerator[str, None]:
    """Server-sent events. name: the prefix of their types. output_format: of the images."""
    partials = _Partials(partial_images)
    async with aclosing(events):
        try:
            event = first
            while True:
                if isinstance(event, ImageResult):
                    yield _image(f"{name}.completed", event, output_format, {"seed": event.seed})
                elif event.preview is not None and (index := partials.index(event)) is not None:
                    yield _image(f"{name}.partial_image", event.preview, "jpeg", {"partial_image_index": index})
                event = await anext(events)
        except StopAsyncIteration:
            return
        except Refusal as refusal:
            yield _sse("error", error_body(refusal))


class _Partials:
    """Which of each image's previews are told: so many, evenly over its steps."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._told: dict[int, int] = {}

    def index(self, progress: Progress) -> int | None:
        told = self._told.get(progress.image, 0)
        if told == self._count or progress.step * (self._count + 1) < progress.steps * (told + 1):
            return None
        self._told[progress.image] = told + 1
        return told


def _image(kind: str, image: ImageResult | Preview, output_format: str, more: dict[str, Any]) -> str:
    fields = {
        "created_at": int(time.time()),
        "b64_json": as_text(image.data),
        "size": size_of(image),
        "output_format": output_format,
        "quality": "auto",
        "background": "opaque",
    }
    return _sse(kind, fields | more)


def _sse(kind: str, fields: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"
