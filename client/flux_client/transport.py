"""What a client needs of a connection, and which connection a protocol's name stands for.

The real ones are in `grpc_transport` and `http_transport`, imported only when asked for; `fake` has one with no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from flux_client.request import Array, Request
from flux_serving.errors import Unreachable

ProtocolName = Literal["grpc", "http"]
#: Outputs by tensor name, batch dimension included.
Answer = Mapping[str, Array]

#: Where Triton listens, by protocol.
DEFAULT_URLS: dict[str, str] = {"grpc": "localhost:8001", "http": "localhost:8000"}


class NotConnected(Unreachable):
    """No connection was made, so nothing was sent and trying again is safe."""


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


def open_transport(protocol: str, url: str | None) -> Transport:
    """Raises ValueError: unknown protocol, or url is not host:port."""
    address = _address(protocol, url)
    if protocol == "grpc":
        from flux_client.grpc_transport import GrpcTransport

        return GrpcTransport(address)
    from flux_client.http_transport import HttpTransport

    return HttpTransport(address)


def open_async_transport(protocol: str, url: str | None) -> AsyncTransport:
    """Raises ValueError: unknown protocol, or url is not host:port."""
    address = _address(protocol, url)
    if protocol == "grpc":
        from flux_client.grpc_transport import AsyncGrpcTransport

        return AsyncGrpcTransport(address)
    from flux_client.http_transport import AsyncHttpTransport

    return AsyncHttpTransport(address)


def _address(protocol: str, url: str | None) -> str:
    if protocol not in DEFAULT_URLS:
        raise ValueError(f"protocol={protocol!r}, expected one of: {', '.join(DEFAULT_URLS)}")
    address = DEFAULT_URLS[protocol] if url is None else url
    if not address or address.startswith(("http://", "https://", "grpc://")):
        raise ValueError(
            f"url={url!r}, expected host:port such as {DEFAULT_URLS[protocol]}; protocol= names the protocol"
        )
    return address
