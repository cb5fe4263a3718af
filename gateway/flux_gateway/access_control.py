"""Admits requests by their headers, before their body is read: the API key first, then a slot for a generation."""

from __future__ import annotations

import base64
from contextlib import ExitStack, suppress
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from flux_gateway.admission import Admission
from flux_gateway.answers import answer
from flux_gateway.bodies import LimitedBody
from flux_gateway.keys import Caller, Keys
from flux_gateway.refusals import Refusal

#: Paths that need no key. They reveal only whether the server is ready. The name of a stored image is its credential.
OPEN_PATHS = frozenset({"/", "/health"})
OPEN_PREFIXES = ("/page/", "/v1/images/files/")
METRICS_PATH = "/metrics"
#: A browser that opens these pages cannot send a key in a header. It asks for a password, which is the key.
DOCS_PATHS = frozenset({"/docs", "/openapi.json"})
DOCS_PREFIX = "/docs/"


class BodyLimits(NamedTuple):
    most_bytes: int
    timeout_s: float


class AccessControl:
    """Middleware: requires a known key if keys are configured (401), and a slot for each POST (429 or 503).

    The request's state has the slot as `slot`, the caller as `caller_key`, and the caller's name, for the log, as
    `caller`. A slot is held until the request and its generation have ended. Other requests also have a slot, which
    reserves memory for their response.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, admission: Admission, body_limits: BodyLimits, metrics_open: bool
    ) -> None:
        self._app = app
        self._keys = keys
        self._admission = admission
        self._body_limits = body_limits
        self._metrics_open = metrics_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, state = Headers(scope=scope), scope["state"]
        address = Caller(_network(scope["client"][0] if scope.get("client") else "anonymous"))
        with ExitStack() as held:
            try:
                caller = state["caller_key"] = self._caller(scope, headers, address)
                state["caller"] = caller.name if caller else None
                generates = scope["method"] == "POST" and caller is not None
                admit = self._admission.admitted if generates else self._admission.accounted
                slot = state["slot"] = held.enter_context(admit(caller or address))
            except Refusal as refusal:
                await answer(refusal, scope, receive, send)
                return
            limited = LimitedBody(receive, headers, slot, *self._body_limits) if generates else receive
            await self._app(scope, limited, send)

    def _caller(self, scope: Scope, headers: Headers, address: Caller) -> Caller | None:
        """Return the caller, or None on an open path without a known key. Raises Refusal: 401."""
        path = scope["path"]
        is_docs = path in DOCS_PATHS or path.startswith(DOCS_PREFIX)
        try:
            return self._keys.caller(_with_key_of_password(headers) if is_docs else headers, address.name)
        except Refusal as refusal:
            if scope["method"] in ("GET", "HEAD") and self._is_open(path):
                return None
            refusal.challenge = 'Basic realm="flux-triton", charset="UTF-8"' if is_docs else "Bearer"
            raise

    def _is_open(self, path: str) -> bool:
        if path == METRICS_PATH:
            return self._metrics_open
        return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def _with_key_of_password(headers: Headers) -> dict[str, str]:
    """Return the headers with the password of HTTP Basic authentication as a bearer token."""
    found = dict(headers)
    scheme, _, credentials = found.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            password = base64.b64decode(credentials.strip()).decode().partition(":")[2]
            found["authorization"] = f"Bearer {password}"
    return found


def _network(address: str) -> str:
    """Return the caller's name for an address. For IPv6 it is the /64 network, because one host can use all of it."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ip_network((int(parsed), 64), strict=False))
