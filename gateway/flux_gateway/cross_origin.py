"""Protection against pages of other sites in a caller's browser: cross-origin requests and DNS rebinding."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from flux_gateway.answers import answer
from flux_gateway.hosts import host_name, is_address, is_loopback, origin_of, parsed_origin
from flux_gateway.refusals import Refusal

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ANY = "*"


class AllowedHosts:
    """Names that the Host header may have, against DNS rebinding: a page can make its name resolve to this server.

    Addresses and `localhost` are always allowed. Names without a dot, such as a Service's, are allowed unless the
    server listens on a loopback address.
    """

    def __init__(self, listens_on: str, names: Collection[str]) -> None:
        """names: host names without a port; `.example.com` allows all of its subdomains, `*` any name."""
        self._is_local = is_loopback(listens_on)
        self._names = {name.lower() for name in (*names, listens_on)}

    def allows(self, host: str) -> bool:
        """Whether the Host header is allowed. HTTP/1.0 requests have none, but browsers do not use HTTP/1.0."""
        name = host_name(host)
        if not host or ANY in self._names or name in self._names:
            return True
        if is_address(name) or is_loopback(name) or (name and "." not in name and not self._is_local):
            return True
        parents = (name[index:] for index, letter in enumerate(name) if letter == ".")
        return any(parent in self._names for parent in parents)


class CrossOriginProtection:
    """Middleware that rejects requests from pages of other origins.

    421: the Host header is not allowed. 403: a page of another origin sent a request that may change state. A request
    without Origin and Sec-Fetch-Site headers does not come from a browser and is accepted. Source: Go's
    http.CrossOriginProtection.
    """

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts | None, origins: Collection[str], public_url: str = ""
    ) -> None:
        """hosts: None allows any. origins: allowed besides the gateway's own, from public_url or the Host header."""
        self._app = app
        self._hosts = hosts
        self._allows_any = ANY in origins
        self._origins = {origin.lower() for origin in origins}
        self._public = parsed_origin(public_url) if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope, Headers(scope=scope))) is not None:
            await answer(refusal, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        host = headers.get("host", "")
        if self._hosts is not None and not self._hosts.allows(host):
            return Refusal(421, f"Host: {host[:100]!r} is not allowed; add it to FLUX_GATEWAY_HOSTS")
        origin = headers.get("origin")
        if scope["method"] in SAFE_METHODS or self._is_allowed(host, origin, headers.get("sec-fetch-site")):
            return None
        return Refusal(403, f"Origin: {(origin or '')[:100]!r} is not allowed; add it to FLUX_GATEWAY_ORIGINS")

    def _is_allowed(self, host: str, origin: str | None, fetch_site: str | None) -> bool:
        if fetch_site in ("same-origin", "none") or (origin is None and fetch_site is None):
            return True
        if self._allows_any or (origin or "").lower() in self._origins:
            return True
        if fetch_site is not None or origin is None:
            return False
        try:
            asking = parsed_origin(origin)
            # Compare only host and port, because a proxy that terminates TLS may not forward the scheme.
            return asking == self._public or asking[1:] == origin_of(asking[0], host)[1:]
        except ValueError:
            return False
