"""Resolves the servers of a url to addresses. A url is `host:port`, or several separated by commas."""

from __future__ import annotations

import ipaddress
import socket

from flux_contract.errors import NotConnected


class Addresses:
    """Addresses of servers. Names are resolved repeatedly, because the addresses of a headless Service change."""

    def __init__(self, servers: list[str]) -> None:
        """servers: host:port each."""
        self._found: dict[str, list[str]] = {server: [server] if is_fixed(server) else [] for server in servers}

    @property
    def may_change(self) -> bool:
        return not all(is_fixed(server) for server in self._found)

    def label(self, address: str) -> str:
        """Return the address for messages, with the name that resolved to it."""
        for server, found in self._found.items():
            if address in found and address != server:
                return f"{server} ({address})"
        return address

    def first(self) -> list[str]:
        """Return the initial addresses. gRPC resolves a single name, so that the caller does not wait for it.

        Raises NotConnected: none of several names resolves.
        """
        return list(self._found) if len(self._found) == 1 else self.resolve()

    def resolve(self) -> list[str]:
        """Return ip:port of each server. A name that fails to resolve keeps its previous addresses.

        A single name with a single address is returned as a name. Raises NotConnected: no name has ever resolved.
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
    """Whether the host is an IP address, which needs no resolution."""
    host = server.rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolved(server: str) -> list[str]:
    """Return ip:port of each IPv4 address. Raises OSError: the name does not resolve."""
    host, _, port = server.rpartition(":")
    found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    return [f"{address[0]}:{port}" for *_, address in found]
