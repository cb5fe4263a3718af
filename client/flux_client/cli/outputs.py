"""What the command writes: files beside those it was given, their names on stdout, and failures on stderr."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import IO

from tqdm import tqdm

from flux_contract.errors import FluxError, InvalidRequest


class Names:
    """The files' names on stdout. Where nobody takes them any more, the pictures are written all the same."""

    def __init__(self) -> None:
        self.exit_code = 0

    def tell(self, path: Path) -> None:
        if self.exit_code or sys.stdout is None:
            return
        try:
            tqdm.write(printable(str(path), sys.stdout), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            self.exit_code = failed(error, "standard output")
            # What is left in its buffer must not fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def free(target: Path, options: argparse.Namespace) -> Path:
    """`target`. Raises InvalidRequest: it is one of the pictures given."""
    given = (*options.pictures, *options.reference, *(options.mask or ()))
    # Unlike `Path.resolve`, this raises for no file, not even for links that lead in a circle.
    if os.path.realpath(target) in {os.path.realpath(picture) for picture in given}:
        raise InvalidRequest(f"{target} is one of the pictures given; choose another folder")
    return target


def failed(error: Exception, name: str = "") -> int:
    """Tells it in one line. Returns the exit code."""
    expected = isinstance(error, (FluxError, OSError))
    line = " ".join((str(error) if expected else f"{type(error).__name__}: {error}").split())
    if sys.stderr is not None:
        whole = f"flux-client: {name}: {line}" if name else f"flux-client: {line}"
        tqdm.write(printable(whole, sys.stderr), file=sys.stderr)
    return 1


def printable(text: str, stream: IO[str]) -> str:
    """The same on one line of this stream: control characters, and those that it cannot encode, as escapes."""
    escaped = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)
