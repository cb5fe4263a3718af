"""Asking a server on this machine over HTTP, past any proxy that the environment names."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

#: Addresses that stand for all of this machine's, and where to reach a server that listens on them.
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}


def loopback_of(host: str) -> str:
    """The address to ask a server at that listens on host."""
    return _ANY.get(host, f"[{host}]" if ":" in host and not host.startswith("[") else host)


def fetch(url: str, timeout_s: float, body: bytes | None = None) -> bytes:
    """The answer's body. Raises OSError: there is no answer, it is an error, or it is not HTTP."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, data=body), timeout=timeout_s) as answer:
            text: bytes = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{url} is not answered in HTTP: {error!r}") from error
    return text


def answers(url: str, timeout_s: float) -> bool:
    """Whether the server answers, also with an error."""
    return _failure(url, timeout_s) is None


def is_silent(url: str, timeout_s: float) -> bool:
    """Whether the server does not respond within the timeout. Refusing or closing the connection is a response."""
    failure = _failure(url, timeout_s)
    return isinstance(failure, TimeoutError) or isinstance(getattr(failure, "reason", None), TimeoutError)


def _failure(url: str, timeout_s: float) -> OSError | None:
    """Returns why the server does not answer. An HTTP error is an answer."""
    try:
        fetch(url, timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
    except OSError as error:
        return error
    return None
