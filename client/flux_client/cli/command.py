"""Runs a command line and returns its exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from flux_client.cli.generation import generate
from flux_client.cli.outputs import failed
from flux_client.cli.parser import check, make_parser
from flux_client.client import FluxClient
from flux_contract.errors import FluxError

#: Exit code of a command that Ctrl-C ended, as in a shell.
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None, open_client: Callable[..., FluxClient] = FluxClient) -> int:
    """Returns the exit code: 0 success, 1 something failed, 130 after Ctrl-C; a wrong command line exits with 2."""
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
            return _INTERRUPTED


def _ready(client: FluxClient) -> int:
    client.wait_until_ready()
    print("ready")
    return 0
