"""Runs a command line and returns its exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from flux_client.cli.generation import generate
from flux_client.cli.outputs import failed, tell
from flux_client.cli.parser import check, make_parser
from flux_client.client import FluxClient
from flux_contract.errors import FluxError

#: Exit code after Ctrl-C, as in a shell.
_INTERRUPTED = 130
#: Seconds between two messages of `ready` that give the same reason.
_REPORT_INTERVAL_S = 10.0


def main(argv: Sequence[str] | None = None, open_client: Callable[..., FluxClient] = FluxClient) -> int:
    """Return the exit code: 0 for success, 1 for failure, 130 after Ctrl-C. A wrong command line exits with 2."""
    parser = make_parser()
    options = parser.parse_args(argv)
    check(parser, options)
    try:
        client = open_client(options.url, protocol=options.protocol, timeout_s=options.timeout)
    except ValueError as error:
        parser.error(str(error))
    with closing(client):
        try:
            return _ready(client) if options.command == "ready" else generate(client, options)
        except (FluxError, OSError) as error:
            return failed(error)
        except KeyboardInterrupt:
            tell("interrupted")
            return _INTERRUPTED


def _ready(client: FluxClient) -> int:
    client.wait_until_ready(on_wait=_WaitReport())
    print("ready")
    return 0


class _WaitReport:
    """Prints why the server is not ready: at once, when the reason changes, and every _REPORT_INTERVAL_S seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_s = clock()
        self._reported_s = float("-inf")
        self._reason = ""

    def __call__(self, error: FluxError) -> None:
        now, reason = self._clock(), str(error)
        if reason != self._reason or now - self._reported_s >= _REPORT_INTERVAL_S:
            tell(f"waiting for the server ({now - self._started_s:.0f} s): {reason}")
            self._reason, self._reported_s = reason, now
