"""Sends HTTP requests to a server on this machine, ignoring proxies in the environment."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

#: Wildcard addresses, each with the loopback address that reaches a server listening on it.
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}


def loopback_of(host: str) -> str:
    """Returns the address at which to reach a server that listens on host."""
    return _ANY.get(host, f"[{host}]" if ":" in host and not host.startswith("[") else host)


def fetch(url: str, timeout_s: float, body: bytes | None = None) -> bytes:
    """Returns the response's body. Raises OSError: there is no response, it is an error, or it is not HTTP."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, data=body), timeout=timeout_s) as answer:
            text: bytes = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{url} did not return an HTTP response: {error!r}") from error
    return text


def answers(url: str, timeout_s: float) -> bool:
    """Whether the server responds, even with an HTTP error."""
    return _failure(url, timeout_s) is None


def is_silent(url: str, timeout_s: float) -> bool:
    """Whether the server does not respond within the timeout. A refused or closed connection counts as a response."""
    failure = _failure(url, timeout_s)
    return isinstance(failure, TimeoutError) or isinstance(getattr(failure, "reason", None), TimeoutError)


def _failure(url: str, timeout_s: float) -> OSError | None:
    """Returns why the server does not respond; None if it does. An HTTP error is a response."""
    try:
        fetch(url, timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
    except OSError as error:
        return error
    return None
