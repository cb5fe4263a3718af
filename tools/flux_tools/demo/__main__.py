"""`scripts/demo`: reads the options, and runs the demo until it ends or a signal interrupts it."""

from __future__ import annotations

import sys

from flux_serving.launch.processes import end_on_signals
from flux_tools.demo.options import can_listen, read_options, say
from flux_tools.demo.progress import Phase, Progress

#: Exit status of an interrupted demo, as shells report SIGINT.
INTERRUPTED = 130


def main() -> int:
    options = read_options()
    if not can_listen(options):
        return 1
    end_on_signals()
    progress = Progress(options.output)
    try:
        # Importing the libraries takes seconds, in which a signal must not end in a traceback.
        from flux_tools.demo.run import run

        return run(options, progress)
    except SystemExit:
        if progress.phase is Phase.SERVING:
            return 0
        say(progress.interruption())
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
