"""Addresses of the servers that a url names: `host:port`, or several of them with commas."""

from __future__ import annotations

import ipaddress
import socket

from flux_contract.errors import NotConnected


class Addresses:
    """Resolves names repeatedly, because the addresses behind a headless Service change."""

    def __init__(self, servers: list[str]) -> None:
        """servers: host:port each."""
        self._found: dict[str, list[str]] = {server: [server] if is_fixed(server) else [] for server in servers}

    @property
    def may_change(self) -> bool:
        return not all(is_fixed(server) for server in self._found)

    def label(self, address: str) -> str:
        """The address as it appears in messages, with the name that resolved to it."""
        for server, found in self._found.items():
            if address in found and address != server:
                return f"{server} ({address})"
        return address

    def first(self) -> list[str]:
        """The addresses to start with. A single name is left to gRPC to resolve, so that the caller does not wait.

        Raises NotConnected: no name of several resolves.
        """
        return list(self._found) if len(self._found) == 1 else self.resolve()

    def resolve(self) -> list[str]:
        """ip:port of each server; a name that does not resolve now keeps the addresses that it had.

        A single name with a single address stays a name. Raises NotConnected: no name ever resolved.
        """
        failures = []
        for server in self._found:
            if not is_fixed(server):
                try:
                    self._found[server] = _resolved(server)
                except OSError as error:
                    failures.append(f"{server}: {error.strerror}")
        addresses = list(dict.fromkeys(address for found in self._found.values() for address in found))
        if len(self._found) == 1 and len(addresses) < 2:
            return list(self._found)
        if not addresses:
            raise NotConnected("; ".join(failures))
        return addresses


def is_fixed(server: str) -> bool:
    """Whether the host is an IP address, which is not resolved."""
    host = server.rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolved(server: str) -> list[str]:
    """Raises OSError: the name does not resolve."""
    host, _, port = server.rpartition(":")
    found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    return [f"{address[0]}:{port}" for *_, address in found]
