"""Detects a Triton that hangs during start-up: it is not ready although all models have loaded.

This happens rarely with Triton 2.51, on overloaded machines. Another start then succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flux_contract.environment import LOADED_PREFIX
from flux_serving.launch.stubs import ModelProcess

#: Seconds after the last model has loaded after which a start counts as hung. Triton needs less than one.
HUNG_AFTER_S = 60.0
#: Seconds between two checks of the processes.
_LOOK_S = 2.0


class StartWatch:
    """Watches one start of Triton. Not thread-safe."""

    def __init__(
        self,
        folder: Path,
        models: int,
        processes: Callable[[], Sequence[ModelProcess]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """folder: the server's, in which each model creates a file when it has loaded. models: number of Python models.

        processes: returns the models' running processes.
        """
        self._folder = folder
        self._models = models
        self._processes = processes
        self._clock = clock
        self._looked_s = float("-inf")
        #: When all models had loaded; None while some have not.
        self._loaded_s: float | None = None

    def is_hung(self) -> bool:
        """Whether all models had loaded more than HUNG_AFTER_S ago. Call it only while Triton is not ready."""
        now = self._clock()
        if now >= self._looked_s + _LOOK_S:
            self._looked_s = now
            if not self._have_loaded():
                self._loaded_s = None
            elif self._loaded_s is None:
                self._loaded_s = now
        return self._loaded_s is not None and now > self._loaded_s + HUNG_AFTER_S

    def _have_loaded(self) -> bool:
        running = self._processes()
        return len({found.model for found in running}) == self._models and all(
            Path(self._folder, f"{LOADED_PREFIX}{found.process.pid}").exists() for found in running
        )
