"""Calls an ensemble from `flux_stream`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from flux_contract.codes import error_of, without_prefix
from flux_contract.errors import Overloaded

#: Triton's errors when it is stopping and does not start the ensemble or its next model.
_STOPPING = re.compile(r"Server is stopping, [a-z ]*|(?:Model \w+ - Error when running inference: )?Server not ready")


class EnsembleCall(threading.Thread):
    """A thread that calls the ensemble and blocks until the response arrives.

    Triton's non-blocking calls, `async_exec` and coroutines in `execute`, have open bugs.
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
        """Returns the ensemble's response. Raises the failed model's error, or the exception that the call raised."""
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
    """Whether the whole message is Triton's own; a longer message may contain a caller's text."""
    return _STOPPING.fullmatch(message) is not None
