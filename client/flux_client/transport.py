"""Interfaces between the clients and a connection.

`grpc_transport` and `http_transport` implement them for Triton, and `fake` for a fake server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from flux_client.request import Request
from flux_contract.tensors import Array

#: Outputs by tensor name, batch dimension included.
Answer = Mapping[str, Array]


class Answers(Protocol):
    """Iterator over the responses to one request, for one thread. Raises only errors of flux_contract.errors."""

    def __next__(self) -> Answer: ...

    def cancel(self) -> None:
        """Cancel the request on the server. Thread-safe. The reader gets Cancelled. Later calls do nothing."""


class AsyncAnswers(Protocol):
    """Asynchronous `Answers`, bound to one event loop. Cancelling the reading task cancels the request."""

    async def __anext__(self) -> Answer: ...

    def cancel(self) -> None: ...


class Transport(Protocol):
    """Synchronous connection to a server. Until it is closed, it raises only errors of flux_contract.errors."""

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        """Send the request and return the response. Raises DeadlineExceeded: no response within timeout_s."""

    def stream(self, request: Request, timeout_s: float, request_id: str) -> Answers:
        """Send the request to a decoupled model, without waiting for the server.

        Iterating over the responses raises errors of the server, and DeadlineExceeded if they do not all arrive within
        timeout_s. Raises InvalidRequest: the protocol does not support streams.
        """

    def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the server and this model accept requests."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """Asynchronous `Transport`."""

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer: ...

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncAnswers: ...

    async def is_ready(self, model: str, timeout_s: float) -> bool: ...

    async def close(self) -> None: ...
