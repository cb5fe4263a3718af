"""The base class of every `model.py`, with the methods that Triton calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from flux_contract.environment import FOLDER_VARIABLE, LOADED_PREFIX


class EntryPoint:
    """One instance of a model. Imports its backend when the instance starts, not when Triton reads `model.py`."""

    #: `module:class`. The class is constructed with Triton's arguments and has the methods `execute` and `close`.
    backend: str

    def initialize(self, args: Mapping[str, str]) -> None:
        self._model = resolve_name(self.backend)(args)
        # The launcher checks for this file to detect a start-up that hangs.
        if folder := os.environ.get(FOLDER_VARIABLE):
            with suppress(OSError):
                Path(folder, f"{LOADED_PREFIX}{os.getpid()}").touch(mode=0o600)

    def execute(self, requests: Sequence[Any]) -> Any:
        return self._model.execute(requests)

    def is_ready(self) -> bool:
        """Whether the model can serve. Triton 26.03 and newer call it."""
        from flux_serving.backend.health import HEALTH

        return HEALTH.is_ready()

    def finalize(self) -> None:
        self._model.close()
