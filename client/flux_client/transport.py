"""What a client needs of a connection; `grpc_transport` and `http_transport` have the real ones, `fake` one without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from flux_client.request import Array, Request

#: Outputs by tensor name, batch dimension included.
Answer = Mapping[str, Array]


class Transport(Protocol):
    """One server, called synchronously. Every method raises errors of flux_serving.errors and nothing else."""

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        """Send the request; the answer is there within timeout_s or DeadlineExceeded is raised."""

    def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the server and this model take requests."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same with an await."""

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer: ...

    async def is_ready(self, model: str, timeout_s: float) -> bool: ...

    async def close(self) -> None: ...
