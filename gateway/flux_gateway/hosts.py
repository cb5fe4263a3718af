"""Parses hosts and origins from HTTP headers."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


def host_name(netloc: str) -> str:
    """Return the host of `name:port` or `[::1]:80` in lower case; empty if it is malformed."""
    try:
        split = urlsplit(f"//{netloc}")
        # Raises ValueError if the port is invalid.
        _ = split.port
    except ValueError:
        return ""
    is_plain = split.netloc == netloc and split.username is None
    return (split.hostname or "").rstrip(".") if is_plain else ""


def is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether the name or address is that of the loopback interface."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name) and ip_address(name).is_loopback


def origin_of(scheme: str, netloc: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port. Raises ValueError: the port is invalid."""
    split = urlsplit(f"{scheme}://{netloc}")
    return _origin(split)


def parsed_origin(text: str) -> tuple[str, str, int | None]:
    """Parse `scheme://host:port`. Raises ValueError: wrong format."""
    split = urlsplit(text)
    if not split.scheme or not split.hostname or split.path.strip("/") or split.query or split.fragment:
        raise ValueError(f"{text!r}, expected scheme://host:port")
    return _origin(split)


def _origin(split: SplitResult) -> tuple[str, str, int | None]:
    return split.scheme, split.hostname or "", split.port or _DEFAULT_PORTS.get(split.scheme)
