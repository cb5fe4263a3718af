"""What a client needs of a connection; `grpc_transport` and `http_transport` have the real ones, `fake` one without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from flux_client.request import Request
from flux_contract.tensors import Array

#: Outputs by tensor name, batch dimension included.
Answer = Mapping[str, Array]


class Answers(Protocol):
    """The answers to one request, as they come; one thread reads them. Raises errors of flux_contract.errors only."""

    def __next__(self) -> Answer: ...

    def cancel(self) -> None:
        """End the call at the server, from any thread; whoever reads meets Cancelled. Later calls do nothing."""


class AsyncAnswers(Protocol):
    """The same with an await; all of it belongs to one event loop, and cancelling the reading task ends the call."""

    async def __anext__(self) -> Answer: ...

    def cancel(self) -> None: ...


class Transport(Protocol):
    """One server, called synchronously. Until it is closed, it raises nothing but errors of flux_contract.errors."""

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        """Send the request; the answer is there within timeout_s or DeadlineExceeded is raised."""

    def stream(self, request: Request, timeout_s: float, request_id: str) -> Answers:
        """Send the request to a decoupled model; its answers come within timeout_s or DeadlineExceeded is raised.

        It does not wait for the server: what is wrong there is raised by the answers. Raises InvalidRequest: this
        protocol has no streams.
        """

    def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the server and this model take requests."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same with an await."""

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer: ...

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncAnswers: ...

    async def is_ready(self, model: str, timeout_s: float) -> bool: ...

    async def close(self) -> None: ...
