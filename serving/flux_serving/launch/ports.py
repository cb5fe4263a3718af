"""Ports that a launcher reserves for as long as it runs.

Triton binds its ports only once its models are loaded, minutes later, so that a bind alone does not show that another
launcher will use them.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from flux_contract.errors import CannotStart


@contextlib.contextmanager
def reserved(ports: list[int]) -> Iterator[None]:
    """Reserve these ports against all launchers in this network namespace, on all addresses.

    An abstract Unix socket is visible in the whole network namespace, as the port is, to every user, and the kernel
    removes it when the process ends. Raises CannotStart: another launcher has one of the ports.
    """
    with contextlib.ExitStack() as held:
        for port in ports:
            lock = held.enter_context(socket.socket(socket.AF_UNIX))
            try:
                lock.bind(f"\0flux-triton-port-{port}")
            except OSError as error:
                raise CannotStart(
                    f"port {port} is taken by another launcher that loads, serves or stops; wait until it has ended, "
                    "or choose other ports"
                ) from error
        yield
