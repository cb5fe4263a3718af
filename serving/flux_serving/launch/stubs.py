"""Finds the models' Python processes. Triton 2.51 neither notices their death nor restarts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

try:
    import psutil
except ModuleNotFoundError as error:
    extras = "flux-triton[server,embedded,gateway]"
    raise ModuleNotFoundError(f'{error}; run: pip install "{extras}"', name=error.name) from None


class ModelProcess(NamedTuple):
    """A Python process of one instance of a model."""

    model: str
    process: psutil.Process

    def is_alive(self) -> bool:
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def model_processes(triton: int) -> list[ModelProcess]:
    """Returns the running processes of the models. triton: the server's process id."""
    return list(_found(triton))


def running_instances(triton: int) -> Counter[str]:
    """Returns the number of processes of each Python model."""
    return Counter(found.model for found in _found(triton))


def _found(triton: int) -> Iterator[ModelProcess]:
    with suppress(psutil.Error):
        for child in psutil.Process(triton).children():
            with suppress(psutil.Error):
                if child.name().startswith("triton_python") and child.status() != psutil.STATUS_ZOMBIE:
                    # The stub's first argument is REPOSITORY/MODEL/VERSION/model.py.
                    yield ModelProcess(child.cmdline()[1].split("/")[-3], child)
