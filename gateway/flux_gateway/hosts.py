"""Hosts and origins as HTTP and browsers write them."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


def host_name(netloc: str) -> str:
    """Of `name:port`, without the port, in small letters; of `[::1]:80` the address. Empty: it is malformed."""
    try:
        split = urlsplit(f"//{netloc}")
        # Raises ValueError where it is none.
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
    """A name or an address of this machine alone."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name) and ip_address(name).is_loopback


def origin_of(scheme: str, netloc: str) -> tuple[str, str, int | None]:
    """Scheme, host and port. Raises ValueError: the port is none."""
    split = urlsplit(f"{scheme}://{netloc}")
    return _origin(split)


def parsed_origin(text: str) -> tuple[str, str, int | None]:
    """Of `scheme://host:port`. Raises ValueError: it has more or less than that."""
    split = urlsplit(text)
    if not split.scheme or not split.hostname or split.path.strip("/") or split.query or split.fragment:
        raise ValueError(f"{text!r}, expected scheme://host:port")
    return _origin(split)


def _origin(split: SplitResult) -> tuple[str, str, int | None]:
    return split.scheme, split.hostname or "", split.port or _DEFAULT_PORTS.get(split.scheme)
