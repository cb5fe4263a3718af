"""The command `flux-client`.

It streams if the protocol supports streams, so that it can show progress and Ctrl-C cancels the request on the server.
`parser` reads the command line, `mode_arguments` derives the options of a mode from the contract, `values` converts
them to keyword arguments, `tasks` plans the requests, and `generation` sends them.
"""

from flux_client.cli.command import main

__all__ = ["main"]
