"""Streams OpenAI's events: partial images, then the final images."""

# This does not use `sse-starlette`, because one line formats an event. Importing `sse-starlette` replaces
# `uvicorn.Server.handle_exit` for the whole process, and its response adds pings and a disconnect listener, which
# `GenerationJob` and `while_there` already have.

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
    """Yield server-sent events. name: prefix of their types. output_format: of the images."""
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
    """Selects the previews of each image to send: `count` of them, evenly over its steps."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sent: dict[int, int] = {}

    def index(self, progress: Progress) -> int | None:
        sent = self._sent.get(progress.image, 0)
        if sent == self._count or progress.step * (self._count + 1) < progress.steps * (sent + 1):
            return None
        self._sent[progress.image] = sent + 1
        return sent


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
