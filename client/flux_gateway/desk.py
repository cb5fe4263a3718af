"""Where every generation passes, whichever API asks: who it is, whether there is room, and that somebody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

from starlette.requests import Request

from flux_client import Event, FluxError, Variation
from flux_gateway.admission import Admission
from flux_gateway.generation import Generator, Wanted
from flux_gateway.keys import Caller, Keys
from flux_gateway.refusals import Refusal, refusal_of
from flux_gateway.watch import Watch
from flux_serving.contract import limits

_T = TypeVar("_T")


class Desk:
    """pixels: of the largest picture that may be asked for."""

    def __init__(self, generator: Generator, watch: Watch, keys: Keys, admission: Admission, pixels: int) -> None:
        self.watch = watch
        self._generator = generator
        self._keys = keys
        self._admission = admission
        self._pixels = pixels

    def caller(self, request: Request) -> Caller:
        """Who asks; the log tells it, too. Raises Refusal: 401."""
        address = "anonymous" if request.client is None else request.client.host
        caller = self._keys.caller(request.headers, address)
        request.state.caller = caller.name
        return caller

    async def made(self, request: Request, caller: Caller, wanted: Wanted, request_id: str) -> list[Variation]:
        """The images. Raises Refusal. Raises Gone: the client hung up, which ended the work."""
        with self._let_in(caller, wanted) as allowed:
            return await while_there(request, self._generator.made(allowed, request_id))

    async def events(
        self, caller: Caller, wanted: Wanted, request_id: str, with_previews: bool
    ) -> AsyncGenerator[Event, None]:
        """As they come, a preview after each step if wanted. Closing it ends the work. Raises Refusal."""
        with self._let_in(caller, wanted) as allowed:
            async with aclosing(self._generator.events(allowed, request_id, 1 if with_previews else None)) as events:
                async for event in events:
                    yield event

    @contextmanager
    def _let_in(self, caller: Caller, wanted: Wanted) -> Iterator[Wanted]:
        """With no higher priority than the caller's. Raises Refusal, also for what Triton says within the block."""
        self.watch.check(wanted.mode)
        height, width = wanted.knobs.get("height"), wanted.knobs.get("width")
        if height and width and height * width > self._pixels:
            raise Refusal(
                422, f"{width}x{height} has {width * height} pixels, expected at most {self._pixels}", "width"
            )
        priority = min(wanted.knobs.get("priority", limits.DEFAULT_PRIORITY), caller.priority)
        with self._admission.admitted(caller):
            try:
                yield wanted.with_knob("priority", priority)
            except FluxError as error:
                raise refusal_of(error) from error


async def while_there(request: Request, work: Awaitable[_T]) -> _T:
    """What work gives. Where the client hangs up before, the work is cancelled and Gone is raised."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone()
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class Gone(Exception):
    """The client hung up; nobody reads the answer."""


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
