"""A server that is not there, for tests of code that calls `flux_client`.

    client = FluxClient(transport=FakeTransport())

It holds each tensor to the contract as the server does, but not tensors to each other (a mask to its picture, an end to
its start), and answers with real little pictures that depend on seed, pictures and prompt alone; its streams take all
steps. A live test compares it with the real server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from flux_client.fake_server import answer, is_served, status_answer, stream_answers
from flux_client.request import Request
from flux_client.transport import Answer
from flux_contract.errors import Cancelled, FluxError
from flux_contract.models import CANNY_EDGES, FLUX_STATUS


@dataclass(frozen=True)
class RecordedRequest:
    """What a fake was asked."""

    request: Request
    timeout_s: float
    request_id: str


class FakeAnswers:
    """A stream of a fake: what it has still to tell, or its error, and whether it is `cancelled`."""

    def __init__(self, answers: Iterator[Answer], error: FluxError | None = None) -> None:
        self.cancelled = False
        self._answers = answers
        self._error = error

    def __next__(self) -> Answer:
        if self.cancelled:
            raise Cancelled("the call was cancelled")
        if self._error is not None:
            raise self._error
        return next(self._answers)

    def cancel(self) -> None:
        self.cancelled = True


class AsyncFakeAnswers:
    """`FakeAnswers` with an await, at which other tasks may run."""

    def __init__(self, fake: FakeAnswers) -> None:
        self.fake = fake

    async def __anext__(self) -> Answer:
        await asyncio.sleep(0)
        try:
            return next(self.fake)
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self) -> None:
        self.fake.cancel()


class FakeTransport:
    """errors: raised in this order by the first calls that make images, one each: by `infer`, or by a stream before its
    first answer. Requests to canny_edges and flux_status are answered meanwhile; `sent` has all but the latter.

    ready: what `is_ready` answers. `streams` are those opened, in order.
    """

    def __init__(self, *errors: FluxError, ready: bool = True) -> None:
        self.sent: list[RecordedRequest] = []
        self.streams: list[FakeAnswers] = []
        self.ready = ready
        self.closed = False
        self._errors = deque(errors)

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        if request.model == FLUX_STATUS.name:
            return status_answer(request)
        self.sent.append(RecordedRequest(request, timeout_s, request_id))
        if self._errors and request.model != CANNY_EDGES.name:
            raise self._errors.popleft()
        return answer(request)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> FakeAnswers:
        self.sent.append(RecordedRequest(request, timeout_s, request_id))
        error = self._errors.popleft() if self._errors else None
        self.streams.append(FakeAnswers(stream_answers(request), error))
        return self.streams[-1]

    def is_ready(self, model: str, timeout_s: float) -> bool:
        return self.ready and is_served(model)

    def close(self) -> None:
        self.closed = True


class AsyncFakeTransport:
    """`FakeTransport` with an await. `fake` is the one inside: what was sent, and whether it is closed."""

    def __init__(self, *errors: FluxError, ready: bool = True) -> None:
        self.fake = FakeTransport(*errors, ready=ready)

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        return self.fake.infer(request, timeout_s, request_id)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncFakeAnswers:
        return AsyncFakeAnswers(self.fake.stream(request, timeout_s, request_id))

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        return self.fake.is_ready(model, timeout_s)

    async def close(self) -> None:
        self.fake.close()
