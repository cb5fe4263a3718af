"""A call of an ensemble from `flux_stream`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from flux_contract.codes import error_of, without_prefix
from flux_contract.errors import Overloaded

#: What Triton says instead of beginning the next model of an ensemble, or the ensemble, when it has been asked to stop.
_STOPPING = re.compile(r"Server is stopping, [a-z ]*|(?:Model \w+ - Error when running inference: )?Server not ready")


class EnsembleCall(threading.Thread):
    """A call of the ensemble, which blocks until its answer is there.

    Triton has calls that don't block; `async_exec` and coroutines in `execute` have open bugs.
    """

    def __init__(self, request: Any, on_end: Callable[[], None]) -> None:
        super().__init__(name="ensemble call", daemon=True)
        self._request = request
        self._on_end = on_end
        self._outcome: Any = None
        self.has_ended = False

    @property
    def is_running(self) -> bool:
        return self.is_alive() and not self.has_ended

    def run(self) -> None:
        try:
            self._outcome = self._request.exec()
        except BaseException as error:
            self._outcome = error
        finally:
            self._request = None
            self.has_ended = True
            self._on_end()

    def answer(self, wanted: frozenset[str]) -> Any:
        """The ensemble's answer. Raises its failure, in the failed model's own words, or what the call raised."""
        if isinstance(self._outcome, BaseException):
            if _is_stopping(str(self._outcome)):
                raise Overloaded("the server is stopping")
            raise self._outcome
        if self._outcome.has_error():
            message = without_prefix(self._outcome.error().message())
            if _is_stopping(message):
                raise Overloaded("the server is stopping")
            raise error_of(message)
        return pb_utils.InferenceResponse(
            [tensor for tensor in self._outcome.output_tensors() if tensor.name() in wanted]
        )


def _is_stopping(message: str) -> bool:
    """Whether these are Triton's own words; a caller's text within a longer message does not count."""
    return _STOPPING.fullmatch(message) is not None
