"""What the command writes: files beside those it was given, their names on stdout, and failures on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from flux_serving.errors import InvalidRequest


class Names:
    """The files' names on stdout. Where nobody takes them any more, the pictures are written all the same."""

    def __init__(self) -> None:
        self.exit_code = 0

    def tell(self, path: Path) -> None:
        if self.exit_code or sys.stdout is None:
            return
        try:
            tqdm.write(str(path), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            self.exit_code = failed(error, "standard output")
            # What is left in its buffer must not fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def free(target: Path, options: argparse.Namespace) -> Path:
    """`target`. Raises InvalidRequest: it is one of the pictures given."""
    given = (*options.pictures, *options.reference, *(options.mask or ()))
    if target.resolve() in {picture.resolve() for picture in given}:
        raise InvalidRequest(f"{target} is one of the pictures given; choose another folder")
    return target


def failed(error: Exception, name: str = "") -> int:
    """Tells it in one line. Returns the exit code."""
    line = " ".join(str(error).split())
    tqdm.write(f"flux-client: {name}: {line}" if name else f"flux-client: {line}", file=sys.stderr)
    return 1
