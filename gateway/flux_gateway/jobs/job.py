"""State of one job, and notification of its watchers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from flux_client import Event, ImageResult, Preview, Progress
from flux_gateway.refusals import Refusal

Status = Literal["running", "succeeded", "failed", "cancelled"]
#: Seconds without a change after which watchers get a heartbeat, so that proxies do not close the connection.
HEARTBEAT_S = 15.0
_LOG = logging.getLogger(__name__)


@dataclass
class ImageState:
    """State of one image. version: of the job at the last change of this image."""

    index: int
    step: int = 0
    steps: int = 0
    preview: Preview | None = None
    result: ImageResult | None = None
    version: int = 0


class GenerationJob:
    """A generation in the background. For one event loop. error: the reason of a failed job."""

    def __init__(self, name: str, mode: str, count: int) -> None:
        """count: number of images."""
        self.name = name
        self.mode = mode
        self.status: Status = "running"
        self.error: Refusal | None = None
        self.created_at = int(time.time())
        self.expires_at: int | None = None
        self.images = [ImageState(index) for index in range(count)]
        #: Number of readers of `changes`.
        self.watchers = 0
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        """Bytes of its images."""
        files = [encoded for image in self.images for encoded in (image.preview, image.result) if encoded]
        return sum(len(encoded.data) for encoded in files)

    def leave(self) -> None:
        """Record that a reader of `changes` has left."""
        self.watchers -= 1

    async def run(self, first: Event, events: AsyncGenerator[Event, None]) -> None:
        """Process the events until they end or the task is cancelled. Raises nothing but CancelledError."""
        try:
            async with aclosing(events):
                self._take(first)
                async for event in events:
                    self._take(event)
            self._end("succeeded")
        except Refusal as refusal:
            self._end("failed", refusal)
        except asyncio.CancelledError:
            self._end("cancelled")
            raise
        except Exception as error:
            _LOG.exception("job %s", self.name)
            self._end("failed", Refusal(500, f"unexpected {type(error).__name__}; the gateway's log has the details"))

    async def changes(self) -> AsyncGenerator[ImageState | None, None]:
        """Yield each image, and again after each change, until the job ends; None as a heartbeat.

        A slow reader may miss intermediate states, but never the last one.
        """
        seen = -1
        while True:
            version, changed = self._version, self._changed
            for image in self.images:
                if image.version > seen:
                    yield image
            seen = version
            if self._version > seen:
                continue
            if self.status != "running":
                return
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_S)
            except asyncio.TimeoutError:
                yield None

    def _take(self, event: Event) -> None:
        if isinstance(event, Progress):
            image = self.images[event.image]
            image.step, image.steps = event.step, event.steps
            image.preview = event.preview or image.preview
        else:
            # Results arrive at the end, in the order of the images.
            image = next(image for image in self.images if image.result is None)
            image.result, image.preview = event, None
            image.step = image.steps
        self._change(image)

    def _end(self, status: Status, error: Refusal | None = None) -> None:
        self.status, self.error = status, error
        self._change()

    def _change(self, image: ImageState | None = None) -> None:
        self._version += 1
        if image is not None:
            image.version = self._version
        self._changed.set()
        self._changed = asyncio.Event()
