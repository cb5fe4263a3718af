"""Output of the command: files, their names on stdout, and messages on stderr."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import IO

from tqdm import tqdm

from flux_client.cli.mode_arguments import required_options
from flux_contract.errors import FluxError, InvalidRequest
from flux_contract.models import ENSEMBLES, MODELS
from flux_contract.modes import Mode
from flux_contract.parameters import PROMPT

#: Models name themselves at the beginning of a message about a tensor.
_NAMES = "|".join([*(model.name for model in MODELS), *(ensemble.name for ensemble in ENSEMBLES)])
_MODEL = re.compile(rf"^(?:{_NAMES}): (?=[A-Z_]+\b)")


class Names:
    """Prints file names on stdout. If stdout fails, the command still writes the images."""

    def __init__(self) -> None:
        self.exit_code = 0

    def print(self, path: Path) -> None:
        if self.exit_code or sys.stdout is None:
            return
        try:
            tqdm.write(printable(str(path), sys.stdout), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            self.exit_code = failed(error, "standard output")
            # Otherwise, Python would write the rest of the buffer at exit and fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def new_file(target: Path) -> Path:
    """Create an empty file and return its path: `target`, or `name-2.png`, `name-3.png` and so on if that exists."""
    path, number = target, 1
    while True:
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1
            path = target.with_name(f"{target.stem}-{number}{target.suffix}")


def failed(error: Exception, name: str = "", mode: Mode | None = None) -> int:
    """Print the error on one line, with the flags of the mode in place of its tensors. Returns the exit code."""
    expected = isinstance(error, (FluxError, OSError))
    text = str(error) if expected else f"{type(error).__name__}: {error}"
    if isinstance(error, InvalidRequest):
        text = with_flags(text, mode)
    tell(f"{name}: {text}" if name else text)
    return 1


def tell(text: str) -> None:
    """Print a message on one line of stderr."""
    if sys.stderr is not None:
        tqdm.write(printable(f"flux-client: {' '.join(text.split())}", sys.stderr), file=sys.stderr)


def with_flags(message: str, mode: Mode | None) -> str:
    """The message of an InvalidRequest, with flags in place of tensors and keywords.

    `flux_redux: NUM_INFERENCE_STEPS=0, expected 1..100` becomes `--steps 0, expected 1..100`.
    """
    subjects, options = ((), ()) if mode is None else (mode.subjects, (*mode.options, *required_options(mode)))
    # The other subjects are positional arguments.
    flags = {each.name: "TEXT" if each.name == PROMPT.name else "FILE" for each in subjects}
    flags |= {each.name: each.all_flags[-1] for each in options if each.all_flags}
    keywords = {each.python_name: flags[each.name] for each in options if each.name in flags}
    keywords |= {"timeout_s": "--timeout"}
    message = _MODEL.sub("", message)
    for name, flag in (flags | keywords).items():
        message = re.sub(rf"\b{name}=", f"{flag} ", message)
    message = re.sub(r"\b[A-Z][A-Z0-9_]+\b", lambda found: flags.get(found[0], found[0]), message)
    return re.sub(r"\b[a-z]+_[a-z_]+\b", lambda found: keywords.get(found[0], found[0]), message)


def printable(text: str, stream: IO[str]) -> str:
    """Escape control characters and characters that the stream cannot encode."""
    escaped = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)
