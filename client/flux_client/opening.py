"""Opens the transport of a protocol. Imports a protocol's library only when it is used."""

from __future__ import annotations

from typing import Literal

from flux_client.addresses import Addresses, is_fixed
from flux_client.retry import FAIL_OVER, RetryPolicy
from flux_client.transport import AsyncTransport, Transport

ProtocolName = Literal["grpc", "http"]

#: Default address of Triton, by protocol.
DEFAULT_URLS: dict[str, str] = {"grpc": "localhost:8001", "http": "localhost:8000"}
#: Only this protocol supports streams.
STREAMING_PROTOCOL = "grpc"


def open_transport(protocol: str, url: str | None) -> Transport:
    """Raises ValueError: unknown protocol, or url is not host:port. Raises NotConnected: no name in a list resolves."""
    servers = _servers(protocol, url)
    if protocol != "grpc":
        from flux_client.http_transport import HttpTransport

        return HttpTransport(servers[0])
    if _is_one_address(servers):
        from flux_client.grpc_transport import GrpcTransport

        return GrpcTransport(servers[0])
    from flux_client.balanced_transport import BalancedTransport

    return BalancedTransport(Addresses(servers))


def open_async_transport(protocol: str, url: str | None) -> AsyncTransport:
    """Raises ValueError: unknown protocol, or url is not host:port. Raises NotConnected: no name in a list resolves."""
    servers = _servers(protocol, url)
    if protocol != "grpc":
        from flux_client.http_transport import AsyncHttpTransport

        return AsyncHttpTransport(servers[0])
    if _is_one_address(servers):
        from flux_client.grpc_transport import AsyncGrpcTransport

        return AsyncGrpcTransport(servers[0])
    from flux_client.async_balanced_transport import AsyncBalancedTransport

    return AsyncBalancedTransport(Addresses(servers))


def usual_policy(url: str | None) -> RetryPolicy:
    """Return the default retry policy: `FAIL_OVER` for a list of servers."""
    return FAIL_OVER if "," in (url or "") else RetryPolicy()


def _servers(protocol: str, url: str | None) -> list[str]:
    """Return host:port of each server."""
    if protocol not in DEFAULT_URLS:
        raise ValueError(f"protocol={protocol!r}, expected one of: {', '.join(DEFAULT_URLS)}")
    address = DEFAULT_URLS[protocol] if url is None else url
    servers = [server.strip() for server in address.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or "/" in host or " " in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(
                f"url={url!r}, expected host:port such as {DEFAULT_URLS[protocol]}, or several separated by commas; "
                "set the protocol with protocol="
            )
    if len(servers) > 1 and protocol != STREAMING_PROTOCOL:
        raise ValueError(f"url={url!r}: several servers require protocol={STREAMING_PROTOCOL!r}")
    return servers


def _is_one_address(servers: list[str]) -> bool:
    """Whether there is exactly one address. A name other than `localhost` may have several, now or later."""
    return len(servers) == 1 and (is_fixed(servers[0]) or servers[0].startswith("localhost:"))
