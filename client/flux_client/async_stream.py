"""The asynchronous stream of one request's events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flux_client.events import Event
from flux_client.request import Request
from flux_client.retry import RetryBudget
from flux_client.stream_state import StreamState
from flux_client.transport import AsyncAnswers
from flux_contract.errors import FluxError

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncStream:
    """Asynchronous iterator over `Progress` events and one `ImageResult` for each image. One task may iterate.

    Entering the block, or requesting the first event, reads the images and sends the request. The request is cancelled
    on the server by `cancel` and `aclose`, on leaving the block, when the stream is deleted, and when the task that
    waits for an event is cancelled.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[Request]],
        send: Callable[[Request, float], AsyncAnswers],
        budget: RetryBudget,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """prepare: builds the request. send: starts one attempt, with a timeout in seconds."""
        self._prepare = prepare
        self._send = send
        self._sleep = sleep
        self._state = StreamState(budget)
        self._request: Request | None = None
        self._answers: AsyncAnswers | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. Raises Cancelled: `cancel` was called. Raises other errors as `FluxClient.redux`."""
        while (event := self._state.next_event()) is None:
            if self._state.ended:
                raise StopAsyncIteration
            try:
                await self._advance()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return event

    def cancel(self) -> None:
        """Cancel the request on the server; iteration then raises Cancelled. Does nothing after the last event.

        This is not a coroutine. Call it from the event loop's thread.
        """
        if self._state.cancel() and self._answers is not None:
            self._answers.cancel()

    async def aclose(self) -> None:
        """Same as `cancel`."""
        self.cancel()

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_answers"):
            self.cancel()

    async def _advance(self) -> None:
        try:
            answers = await self._opened()
            self._state.take(await answers.__anext__())
        except StopAsyncIteration:
            self._state.end()
        except FluxError as error:
            for pause_s in self._state.pauses_after(error):
                await self._sleep(pause_s)
                self._state.left_s()
            self._answers = None

    async def _opened(self) -> AsyncAnswers:
        if self._request is None:
            self._request = await self._prepare()
        if self._answers is None:
            self._answers = self._send(self._request, self._state.left_s())
        return self._answers
