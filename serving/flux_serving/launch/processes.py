"""Functions that the launcher's child processes share: free ports, signals, exit statuses."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket

from flux_contract.errors import CannotStart


def free_ports(count: int = 3) -> list[int]:
    """Returns different ports that no process listens on, by default three: for HTTP, gRPC and metrics."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Terminated(SystemExit):
    """The process received SIGTERM: it should complete its running requests and exit."""


def end_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise in the main thread, which leaves its `with` blocks and so ends the server.

    After the first signal all of them are ignored, so that nothing interrupts the clean-up.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(0) if number == signal.SIGTERM else SystemExit(0)

    for number in signals:
        signal.signal(number, end)


def end_with_parent() -> None:
    """Let Linux send the calling process SIGTERM when its parent dies (prctl). Runs in the child, before exec."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def exit_reason(status: int) -> str:
    """Describe a status of `Popen.poll`: `exit status 1` or `signal 11 (SIGSEGV)`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"


def refuse_taken(host: str, port: int) -> None:
    """Check that the port can be bound: otherwise its listener would be mistaken for the server that is started here.

    Raises CannotStart: the port is in use, or the address is not this machine's.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(f"cannot listen on port {port} of {host}: {error.strerror}") from error
