"""What every child process of the launcher needs."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket

from flux_contract.errors import CannotStart


def free_ports(count: int = 3) -> list[int]:
    """Ports that nobody listens on, no two the same: of HTTP, gRPC and metrics."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Terminated(SystemExit):
    """SIGTERM came: whoever runs this wants it to end, but not what it is doing to be lost."""


def end_on_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP leave every `with` block of the main thread, and so end the server.

    What comes after the first of them is ignored, so that ending is never cut short.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(0) if number == signal.SIGTERM else SystemExit(0)

    for number in signals:
        signal.signal(number, end)


def end_with_parent() -> None:
    """In the child, before it becomes the server: SIGTERM for it when this process is killed (prctl, Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def exit_reason(status: int) -> str:
    """What `Popen.poll` returned, in words: `exit status 1`, or `signal 11 (SIGSEGV)`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"


def refuse_taken(host: str, port: int) -> None:
    """Otherwise whoever listens there would be taken for the server that was started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(f"port {port} of {host} cannot be listened on: {error.strerror}") from error
