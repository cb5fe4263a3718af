"""What of Triton can be reached, and from where: its address, its published vulnerabilities, its restricted APIs."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable

from flux_contract.errors import CannotStart

#: Triton's APIs that no caller of ours needs, as `--http-restricted-api` and `--grpc-restricted-protocol` name them.
RESTRICTED_APIS = ("shared-memory", "model-repository", "trace", "logging")
#: The HTTP header that opens them, and the same in gRPC's metadata.
KEY_HEADER = "flux-triton-key"
GRPC_KEY_HEADER = f"triton-grpc-protocol-{KEY_HEADER}"
#: What the header must say; unset: a random secret at each start, which nobody knows.
KEY_VARIABLE = "FLUX_TRITON_KEY"
EXPOSE_FLAG = "--expose-vulnerable-triton"

#: The container of Triton without the vulnerabilities below.
FIRST_SAFE_CONTAINER = (25, 7)
_VULNERABILITIES = "CVE-2025-23310, CVE-2025-23319, CVE-2025-23320 and CVE-2025-23334"


def restriction_arguments(key: str, allowed: Iterable[str]) -> list[str]:
    """For tritonserver. key: opens the restricted APIs; empty: a random one. allowed: APIs that need none.

    Raises CannotStart: the key has characters that Triton's option cannot hold, or is short.
    """
    if key and not re.fullmatch(r"[\w-]{16,}", key, re.ASCII):
        raise CannotStart(f"{KEY_VARIABLE}: expected 16 or more of A-Z, a-z, 0-9, _ and -")
    apis = ",".join(api for api in RESTRICTED_APIS if api not in set(allowed))
    rule = f"{apis}:{KEY_HEADER}={key or secrets.token_urlsafe(32)}"
    return [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"] if apis else []


def check_exposure(host: str, version: str, is_accepted: bool) -> None:
    """host: Triton's address. version: its container's, such as `26.08`. is_accepted: whether EXPOSE_FLAG was given.

    Raises CannotStart: other machines would reach a Triton with published vulnerabilities.
    """
    if is_accepted or _is_safe(version) or is_loopback(host):
        return
    found = f"this Triton is of container {version}" if version else "this Triton's version is unknown"
    raise CannotStart(
        f"--triton-host {host}: other machines would reach Triton, and {found}; versions before "
        f"{'.'.join(f'{number:02}' for number in FIRST_SAFE_CONTAINER)} have published remote vulnerabilities "
        f"({_VULNERABILITIES}). Let callers use the REST gateway (--gateway-host {host}), or a newer Triton, or accept "
        f"the risk by {EXPOSE_FLAG}"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. A name that does not resolve is not."""
    try:
        found = {address[4][0] for address in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(host) and all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)


def _is_safe(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= FIRST_SAFE_CONTAINER
