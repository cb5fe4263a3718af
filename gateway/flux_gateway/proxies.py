"""Reads the caller's address and the requested URL from headers of trusted reverse proxies."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from flux_gateway.hosts import host_name


class Networks:
    """Addresses and networks, such as `10.0.0.0/8,::1`."""

    def __init__(self, text: str) -> None:
        """text: separated by commas. Raises ValueError: an item is neither an address nor a network."""
        self._networks = [ip_network(item.strip()) for item in text.split(",") if item.strip()]

    def __contains__(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)


class TrustedProxies:
    """Middleware: applies X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host from trusted proxies only.

    The caller is the last address in X-Forwarded-For that is not a trusted proxy. A proxy must set or remove all three
    headers, because otherwise a caller could set them. `Forwarded` is ignored, because most proxies forward it
    unchanged.
    """

    def __init__(self, app: ASGIApp, trusted: Networks) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if scope["type"] == "http" and client and client[0] in self._trusted:
            headers = MutableHeaders(scope=scope)
            if (address := self._caller(headers.getlist("x-forwarded-for"))) is not None:
                scope["client"] = (address, 0)
            if (scheme := _last(headers, "x-forwarded-proto").lower()) in ("http", "https"):
                scope["scheme"] = scheme
            if host_name(host := _last(headers, "x-forwarded-host")):
                headers["host"] = host
        await self._app(scope, receive, send)

    def _caller(self, values: Iterable[str]) -> str | None:
        """Return the caller's address. None: the header is missing, or a trusted proxy did not write an address."""
        found = None
        for hop in reversed(",".join(values).split(",")):
            address = _address(hop.strip())
            if address is None:
                break
            found = address
            if address not in self._trusted:
                break
        return found


class PublicUrl:
    """Middleware: sets the base of URLs in responses, whatever the Host header is."""

    def __init__(self, app: ASGIApp, url: str) -> None:
        self._app = app
        self._url = urlsplit(url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._url.netloc:
            scope["scheme"] = self._url.scheme
            MutableHeaders(scope=scope)["host"] = self._url.netloc
        await self._app(scope, receive, send)


def _last(headers: Headers, name: str) -> str:
    """Return the value that the nearest proxy wrote."""
    values = headers.getlist(name)
    return values[-1].rpartition(",")[2].strip() if values else ""


def _address(hop: str) -> str | None:
    """Return the address without the port that some proxies add, or None if it is not an address."""
    for text in (hop, host_name(hop)):
        try:
            return str(ip_address(text))
        except ValueError:
            continue
    return None
