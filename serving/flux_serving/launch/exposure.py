"""Limits who can reach Triton: checks its address against published vulnerabilities, and restricts its APIs."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable

from flux_contract.errors import CannotStart

#: Triton APIs that the clients and the gateway do not need, named as in `--http-restricted-api` and
#: `--grpc-restricted-protocol`.
RESTRICTED_APIS = ("shared-memory", "model-repository", "trace", "logging")
#: The HTTP header that carries the key of the restricted APIs, and its name in gRPC metadata.
KEY_HEADER = "flux-triton-key"
GRPC_KEY_HEADER = f"triton-grpc-protocol-{KEY_HEADER}"
#: Variable with the key. If it is unset, each start makes a random key that is not shown, which blocks these APIs.
KEY_VARIABLE = "FLUX_TRITON_KEY"
EXPOSE_FLAG = "--expose-vulnerable-triton"

#: The first Triton container without the vulnerabilities below.
FIRST_SAFE_CONTAINER = (25, 7)
_VULNERABILITIES = "CVE-2025-23310, CVE-2025-23319, CVE-2025-23320 and CVE-2025-23334"


def restriction_arguments(key: str, allowed: Iterable[str]) -> list[str]:
    """Returns arguments of tritonserver. key: of the restricted APIs; empty: random. allowed: APIs that need no key.

    Raises CannotStart: the key is too short, or has characters that Triton's option does not accept.
    """
    if key and not re.fullmatch(r"[\w-]{16,}", key, re.ASCII):
        raise CannotStart(f"{KEY_VARIABLE}: expected 16 or more of A-Z, a-z, 0-9, _ and -")
    apis = ",".join(api for api in RESTRICTED_APIS if api not in set(allowed))
    rule = f"{apis}:{KEY_HEADER}={key or secrets.token_urlsafe(32)}"
    return [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"] if apis else []


def check_exposure(host: str, version: str, is_accepted: bool) -> None:
    """Check that other machines cannot reach a vulnerable Triton.

    host: Triton's address. version: of its container, such as `26.08`. is_accepted: whether EXPOSE_FLAG was given.
    Raises CannotStart: other machines could reach a Triton with published vulnerabilities.
    """
    if is_accepted or _is_safe(version) or is_loopback(host):
        return
    found = f"this Triton is from container {version}" if version else "this Triton's version is unknown"
    raise CannotStart(
        f"--triton-host {host} would let other machines reach Triton, and {found}; versions before "
        f"{'.'.join(f'{number:02}' for number in FIRST_SAFE_CONTAINER)} have published remote vulnerabilities "
        f"({_VULNERABILITIES}). Expose the REST gateway instead (--gateway-host {host}), use a newer Triton, or accept "
        f"the risk with {EXPOSE_FLAG}"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. False for a name that does not resolve."""
    try:
        found = {address[4][0] for address in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(host) and all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)


def _is_safe(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= FIRST_SAFE_CONTAINER
