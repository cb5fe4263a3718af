"""The base class of every `model.py`, with the methods that Triton calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any


class EntryPoint:
    """One instance of a model. Its backend is imported when the instance starts, not when Triton reads `model.py`."""

    #: `module:class`. The class is created with Triton's arguments; it has the methods `execute` and `close`.
    backend: str

    def initialize(self, args: Mapping[str, str]) -> None:
        self._model = resolve_name(self.backend)(args)

    def execute(self, requests: Sequence[Any]) -> Any:
        return self._model.execute(requests)

    def is_ready(self) -> bool:
        """Triton 26.03 and newer call it."""
        from flux_serving.backend.health import HEALTH

        return HEALTH.is_ready()

    def finalize(self) -> None:
        self._model.close()
