"""Liveness probe: `python3 -m flux_serving.launch.probe` exits with 1 if a service on this machine is dead.

Without arguments it checks the services of this user's launchers: Triton, the processes of its models (Triton 2.51
reports live and ready even after they have died), and the gateway, if there is one. A Triton that its launcher is
restarting is not dead. Run the probe on Triton's machine and as the same user, because it checks processes.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import psutil

from flux_serving.launch.instances import configured_instances, missing_processes
from flux_serving.launch.state import LauncherState, running_launchers
from flux_serving.launch.stubs import running_instances
from flux_serving.launch.urls import answers, fetch, loopback_of

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000


class Dead(Exception):
    """A service is dead; the message says why."""


def look_at_launcher(state: LauncherState, timeout_s: float) -> None:
    """Check the services of a launcher. Raises Dead."""
    if state.gateway and not answers(f"http://{_reachable(state.gateway)}/health", timeout_s):
        raise Dead(f"the gateway at {state.gateway} does not answer")
    if not state.is_restarting:
        host, _, port = state.triton.rpartition(":")
        look(host, int(port), timeout_s)


def look(host: str, port: int, timeout_s: float) -> None:
    """Check Triton. Raises Dead: it does not answer, or a Python model has fewer processes than instances."""
    try:
        fetch(f"http://{loopback_of(host)}:{port}/v2/health/live", timeout_s)
        configured = configured_instances(host, port, timeout_s)
    except OSError as error:
        raise Dead(f"Triton at {host}:{port} does not answer: {error}") from error
    if not configured:
        raise Dead(f"Triton at {host}:{port} has loaded none of the models")
    if missing := missing_processes(configured, running_instances(_listener(port))):
        raise Dead(missing[0])


def _listener(port: int) -> int:
    """Returns the process id of the Triton that listens on this port. Raises Dead: this user has no such process."""
    for connection in psutil.net_connections("tcp"):
        address: Any = connection.laddr
        if connection.status == psutil.CONN_LISTEN and address.port == port:
            pid: int | None = connection.pid
            if pid and psutil.Process(pid).name() == "tritonserver":
                return pid
    raise Dead(f"no tritonserver of this user listens on port {port}")


def _reachable(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{loopback_of(host)}:{port}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m flux_serving.launch.probe", description=__doc__)
    parser.add_argument(
        "--host", help=f"check only the Triton at this address; default with --http-port: {DEFAULT_HOST}"
    )
    parser.add_argument(
        "--http-port",
        type=int,
        help=f"check only the Triton with this HTTP port; default with --host, or if no launcher runs: {DEFAULT_PORT}",
    )
    parser.add_argument("--timeout", type=float, default=3.0, help="timeout of each request, in seconds; default: 3")
    options = parser.parse_args()
    is_named = options.host is not None or options.http_port is not None
    try:
        launchers = [] if is_named else list(running_launchers())
        for state in launchers:
            look_at_launcher(state, options.timeout)
        if not launchers:
            look(options.host or DEFAULT_HOST, options.http_port or DEFAULT_PORT, options.timeout)
    except Dead as reason:
        print(f"probe: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
