"""Which connection a protocol's name stands for; its library is imported only when it is asked for."""

from __future__ import annotations

import socket
from typing import Literal

from flux_client.retry import FAIL_OVER, RetryPolicy
from flux_client.transport import AsyncTransport, Transport
from flux_serving.errors import NotConnected

ProtocolName = Literal["grpc", "http"]

#: Where Triton listens, by protocol.
DEFAULT_URLS: dict[str, str] = {"grpc": "localhost:8001", "http": "localhost:8000"}
#: The one that has streams.
STREAMING_PROTOCOL = "grpc"


def open_transport(protocol: str, url: str | None) -> Transport:
    """Raises ValueError: unknown protocol, or url is not host:port. Raises NotConnected: no name resolves."""
    address = _address(protocol, url)
    if protocol == "grpc":
        from flux_client.grpc_transport import GrpcTransport

        return GrpcTransport(address)
    from flux_client.http_transport import HttpTransport

    return HttpTransport(address)


def open_async_transport(protocol: str, url: str | None) -> AsyncTransport:
    """Raises ValueError: unknown protocol, or url is not host:port. Raises NotConnected: no name resolves."""
    address = _address(protocol, url)
    if protocol == "grpc":
        from flux_client.grpc_transport import AsyncGrpcTransport

        return AsyncGrpcTransport(address)
    from flux_client.http_transport import AsyncHttpTransport

    return AsyncHttpTransport(address)


def usual_policy(url: str | None) -> RetryPolicy:
    """Of a call to the one server, or to the several."""
    return FAIL_OVER if "," in (url or "") else RetryPolicy()


def _address(protocol: str, url: str | None) -> str:
    """What the protocol's library is to connect to."""
    if protocol not in DEFAULT_URLS:
        raise ValueError(f"protocol={protocol!r}, expected one of: {', '.join(DEFAULT_URLS)}")
    address = DEFAULT_URLS[protocol] if url is None else url
    servers = [server.strip() for server in address.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(
                f"url={url!r}, expected host:port such as {DEFAULT_URLS[protocol]}; protocol= names the protocol"
            )
    if len(servers) == 1:
        return address
    if protocol != STREAMING_PROTOCOL:
        raise ValueError(f"url={url!r}: several servers go with protocol={STREAMING_PROTOCOL!r}")
    return "ipv4:" + ",".join(_resolved(servers))


def _resolved(servers: list[str]) -> list[str]:
    """gRPC balances between addresses; between names it does not."""
    found: dict[str, None] = {}
    failures = []
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            addresses = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
            found.update((f"{address[0]}:{port}", None) for *_, address in addresses)
        except OSError as error:
            failures.append(f"{server}: {error.strerror}")
    if not found:
        raise NotConnected("; ".join(failures))
    return list(found)
