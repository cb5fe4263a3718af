"""Runs generations for all APIs: checks the mode and the size, reserves memory, and cancels on disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

from starlette.requests import Request

from flux_client import Event, FluxError, ImageResult
from flux_contract import limits
from flux_contract.parameters import HEIGHT, PRIORITY, WIDTH
from flux_gateway.admission import Admission, Slot
from flux_gateway.content_filter import ContentFilter
from flux_gateway.generation import GenerationRequest, Generator
from flux_gateway.keys import Caller
from flux_gateway.metrics import Metrics
from flux_gateway.refusals import Refusal, refusal_of
from flux_gateway.server_monitor import ServerMonitor

#: Bytes of memory per pixel of a response until it is sent: the image and its base64 text.
ANSWER_BYTES_PER_PIXEL = 7

_T = TypeVar("_T")


class GenerationService:
    """Runs generations for all callers. pixels: maximum of one image. content_filter: checks previews and images."""

    def __init__(
        self,
        generator: Generator,
        monitor: ServerMonitor,
        admission: Admission,
        metrics: Metrics,
        content_filter: ContentFilter | None,
        pixels: int,
    ) -> None:
        self.monitor = monitor
        self._generator = generator
        self._admission = admission
        self._metrics = metrics
        self._content_filter = content_filter
        self._pixels = pixels

    @property
    def in_work(self) -> int:
        return self._admission.running

    @property
    def room(self) -> int:
        return self._admission.at_once

    def caller(self, request: Request) -> Caller:
        """Return the caller that AccessControl identified."""
        caller: Caller = request.state.caller_key
        return caller

    def slot(self, request: Request) -> Slot:
        """Return the slot of a POST. Call it before reading the body. Raises Refusal: 503, no mode is ready."""
        self.monitor.check_any()
        slot: Slot = request.state.slot
        return slot

    async def made(self, request: Request, slot: Slot, wanted: GenerationRequest, request_id: str) -> list[ImageResult]:
        """Generate the images. Raises Refusal. Raises ClientDisconnected, and cancels, if the client disconnects."""

        async def collected() -> list[ImageResult]:
            async with aclosing(self.events(slot, wanted, request_id, with_previews=False)) as events:
                return [event async for event in events if isinstance(event, ImageResult)]

        return await while_there(request, collected())

    async def events(
        self, slot: Slot, wanted: GenerationRequest, request_id: str, with_previews: bool
    ) -> AsyncGenerator[Event, None]:
        """Yield events, with a preview after each step if `with_previews`. Closing it cancels. Raises Refusal."""
        with self._let_in(slot, wanted) as allowed:
            async with aclosing(self._generator.events(allowed, request_id, 1 if with_previews else None)) as events:
                async for event in events:
                    if self._content_filter is not None:
                        await self._content_filter.look(event)
                    yield event

    def size_of(self, wanted: GenerationRequest) -> tuple[int, int]:
        """Return width and height of the generated images. The default of a side is the checkpoint's native size."""
        width, height = (wanted.keywords.get(side.python_name) or self.monitor.native_side for side in (WIDTH, HEIGHT))
        return width, height

    def checked_size(self, wanted: GenerationRequest) -> tuple[int, int]:
        """Return the size from `size_of`. Raises Refusal: 422, too many pixels."""
        width, height = self.size_of(wanted)
        if width * height > self._pixels:
            side = WIDTH if wanted.keywords.get(WIDTH.python_name) else HEIGHT
            field = wanted.size_field or side.python_name
            raise Refusal(
                422,
                f"{field}: {width}x{height} has {width * height} pixels, expected at most {self._pixels}",
                field,
            )
        return width, height

    @contextmanager
    def _let_in(self, slot: Slot, wanted: GenerationRequest) -> Iterator[GenerationRequest]:
        """Reserve memory for the request, and limit its priority to the caller's.

        Raises Refusal, also for errors of Triton within the block.
        """
        self.monitor.check(wanted.mode.name)
        width, height = self.checked_size(wanted)
        priority = min(wanted.keywords.get(PRIORITY.python_name, limits.DEFAULT_PRIORITY), slot.caller.priority)
        with slot.held():
            slot.reserve(ANSWER_BYTES_PER_PIXEL * width * height * wanted.count)
            outcome = "cancelled"
            try:
                yield wanted.with_keyword(PRIORITY.python_name, priority)
                outcome = "done"
            except Refusal:
                outcome = "withheld"
                raise
            except FluxError as error:
                outcome = "failed"
                raise refusal_of(error) from error
            finally:
                self._metrics.ended(wanted.mode.name, outcome)


async def while_there(request: Request, work: Awaitable[_T]) -> _T:
    """Return the result of the work. If the client disconnects, cancel the work and raise ClientDisconnected."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected()
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class ClientDisconnected(Exception):
    """The client disconnected before the response."""


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
