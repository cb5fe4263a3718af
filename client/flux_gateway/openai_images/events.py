"""A stream of OpenAI's events: partial images, and at the end the images."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from flux_client import Event, Preview, Progress, Variation
from flux_gateway.openai_images.errors import error_body
from flux_gateway.openai_images.schema import ImagesRequest
from flux_gateway.refusals import Refusal


async def streamed(
    first: Event, events: AsyncGenerator[Event, None], name: str, asked: ImagesRequest
) -> AsyncGenerator[str, None]:
    """Server-sent events. name: what their types begin with."""
    partials = _Partials(asked.partial_images)
    async with aclosing(events):
        try:
            event = first
            while True:
                if isinstance(event, Variation):
                    fields = {"b64_json": _text(event.data), "seed": event.seed, "output_format": asked.output_format}
                    yield _sse(f"{name}.completed", fields | _size(event))
                elif (index := partials.index(event)) is not None and event.preview is not None:
                    fields = {"b64_json": _text(event.preview.data), "output_format": "jpeg"}
                    yield _sse(f"{name}.partial_image", fields | {"partial_image_index": index} | _size(event.preview))
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
        if progress.preview is None or told == self._count:
            return None
        if progress.step * (self._count + 1) < progress.steps * (told + 1):
            return None
        self._told[progress.image] = told + 1
        return told


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _size(picture: Variation | Preview) -> dict[str, str]:
    width, height = picture.image.size
    return {"size": f"{width}x{height}"}


def _sse(kind: str, fields: dict[str, Any]) -> str:
    whole = {"type": kind, "created_at": int(time.time()), "quality": "auto", "background": "opaque", **fields}
    return f"event: {kind}\ndata: {json.dumps(whole)}\n\n"
