"""The command `flux-client`.

It streams where the protocol does, for the bar and so that Ctrl-C ends the work at the server too. `parser` reads the
command line, `arguments` says what it means to the client, `tasks` which requests it asks for, `generation` makes them.
"""

from flux_client.cli.command import main

__all__ = ["main"]
