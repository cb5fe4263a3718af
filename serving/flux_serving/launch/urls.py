"""Asking a server on this machine over HTTP, past any proxy that the environment names."""

from __future__ import annotations

import urllib.error
import urllib.request

#: Addresses that stand for all of this machine's, and where to reach a server that listens on them.
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}


def loopback_of(host: str) -> str:
    """The address to ask a server at that listens on host."""
    return _ANY.get(host, f"[{host}]" if ":" in host and not host.startswith("[") else host)


def fetch(url: str, timeout_s: float, body: bytes | None = None) -> bytes:
    """The answer's body. Raises OSError: there is no answer, or it is an error."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(urllib.request.Request(url, data=body), timeout=timeout_s) as answer:
        text: bytes = answer.read()
    return text


def answers(url: str, timeout_s: float) -> bool:
    """Whether there is an answer, an error or not."""
    try:
        fetch(url, timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True
