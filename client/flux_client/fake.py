"""A fake server for tests of code that uses `flux_client`.

    client = FluxClient(transport=FakeTransport())

It checks each tensor against the contract as the server does, but not tensors against each other (such as a mask and
its image, or an end and its start). It returns small images that depend only on the seed, the input images and the
prompt. Its streams report all steps. A live test compares it with the real server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux_client.fake_server import answer, is_served, status_answer, stream_answers
from flux_client.request import Request
from flux_client.transport import Answer
from flux_contract.errors import Cancelled, FluxError
from flux_contract.models import CANNY_EDGES, ENSEMBLES, FLUX_STATUS, Ensemble


@dataclass(frozen=True)
class RecordedRequest:
    """A request that a fake received."""

    request: Request
    timeout_s: float
    request_id: str


class FakeAnswers:
    """A fake stream: its remaining responses or its error. cancelled: whether it was cancelled."""

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
    """Asynchronous `FakeAnswers`. Each response lets other tasks run first."""

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
    """Transport to a fake server.

    errors: raised in this order, one by each of the first generation requests: by `infer`, or by a stream before its
    first response. Requests to canny_edges and flux_status do not raise them. ready: result of `is_ready`. ensembles:
    of the server. sent: all requests except those to flux_status. streams: all streams, in order.
    """

    def __init__(self, *errors: FluxError, ready: bool = True, ensembles: Sequence[Ensemble] = ENSEMBLES) -> None:
        self._ensembles = ensembles
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
        return answer(request, self._ensembles)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> FakeAnswers:
        self.sent.append(RecordedRequest(request, timeout_s, request_id))
        error = self._errors.popleft() if self._errors else None
        self.streams.append(FakeAnswers(stream_answers(request, self._ensembles), error))
        return self.streams[-1]

    def is_ready(self, model: str, timeout_s: float) -> bool:
        return self.ready and is_served(model, self._ensembles)

    def close(self) -> None:
        self.closed = True


class AsyncFakeTransport:
    """Asynchronous `FakeTransport`. fake: the transport that it wraps."""

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
