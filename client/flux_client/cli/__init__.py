"""The command `flux-client`.

It uses streams if the protocol has them, for the progress bar and so that Ctrl-C cancels the request at the server.
`parser` reads the command line, `mode_arguments` derives the options of a mode from the contract, `values` converts
them to keyword arguments, `tasks` plans the requests, and `generation` sends them.
"""

from flux_client.cli.command import main

__all__ = ["main"]
