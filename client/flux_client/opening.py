"""Which connection a protocol's name stands for; its library is imported only when it is asked for."""

from __future__ import annotations

from typing import Literal

from flux_client.transport import AsyncTransport, Transport

ProtocolName = Literal["grpc", "http"]

#: Where Triton listens, by protocol.
DEFAULT_URLS: dict[str, str] = {"grpc": "localhost:8001", "http": "localhost:8000"}
#: The one that has streams.
STREAMING_PROTOCOL = "grpc"


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
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(
            f"url={url!r}, expected host:port such as {DEFAULT_URLS[protocol]}; protocol= names the protocol"
        )
    return address
