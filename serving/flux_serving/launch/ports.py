"""Reserves a launcher's ports for as long as it runs.

Triton binds its ports only after its models have loaded, which can take minutes. Until then, binding a port does not
show that another launcher will use it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from flux_contract.errors import CannotStart


@contextlib.contextmanager
def reserved(ports: list[int]) -> Iterator[None]:
    """Reserve these ports against all launchers in this network namespace, on all addresses.

    It binds an abstract Unix socket for each port. Like a port, the socket is visible to every user in the network
    namespace, and the kernel removes it when the process ends.
    Raises CannotStart: another launcher has reserved one of the ports.
    """
    with contextlib.ExitStack() as held:
        for port in ports:
            lock = held.enter_context(socket.socket(socket.AF_UNIX))
            try:
                lock.bind(f"\0flux-triton-port-{port}")
            except OSError as error:
                raise CannotStart(
                    f"port {port} is reserved by another launcher that is loading, serving or stopping; wait until it "
                    "has ended, or choose other ports"
                ) from error
        yield
