"""The models' Python processes, which Triton 2.51 neither starts anew nor misses when they die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import psutil


def running_stubs(triton: int) -> set[int]:
    """Process ids. triton: the server's own."""
    return {stub.pid for stub in _stubs(triton)}


def running_instances(triton: int) -> Counter[str]:
    """How many processes each Python model has."""
    models = Counter[str]()
    for stub in _stubs(triton):
        with suppress(psutil.Error):
            # Its first argument is REPOSITORY/MODEL/VERSION/model.py.
            models[stub.cmdline()[1].split("/")[-3]] += 1
    return models


def _stubs(triton: int) -> Iterator[psutil.Process]:
    with suppress(psutil.Error):
        for child in psutil.Process(triton).children():
            with suppress(psutil.Error):
                if child.name().startswith("triton_python") and child.status() != psutil.STATUS_ZOMBIE:
                    yield child
