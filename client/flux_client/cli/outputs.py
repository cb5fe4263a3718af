"""Output of the command: files, their names on stdout, and errors on stderr."""

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
    """Prints the names of files on stdout. If stdout fails, the images are still written."""

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
            # Otherwise Python would write the rest of the buffer at exit, and fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def free(target: Path, options: argparse.Namespace) -> Path:
    """Return `target`. Raises InvalidRequest: it is one of the input images."""
    given = (*options.images, *options.reference, *(options.image_mask or ()))
    if options.mask_image is not None:
        given = (*given, options.mask_image)
    # Unlike `Path.resolve`, this raises for no file, not even for links that lead in a circle.
    if os.path.realpath(target) in {os.path.realpath(image) for image in given}:
        raise InvalidRequest(f"{target} is one of the input images; choose another folder")
    return target


def failed(error: Exception, name: str = "") -> int:
    """Print the error on one line. Returns the exit code."""
    expected = isinstance(error, (FluxError, OSError))
    line = " ".join((str(error) if expected else f"{type(error).__name__}: {error}").split())
    if sys.stderr is not None:
        whole = f"flux-client: {name}: {line}" if name else f"flux-client: {line}"
        tqdm.write(printable(whole, sys.stderr), file=sys.stderr)
    return 1


def printable(text: str, stream: IO[str]) -> str:
    """The text on one line: control characters, and those that the stream cannot encode, are escaped."""
    escaped = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)
