"""A hand-written fake of Triton's Python API, so that models run in the test's process.

`install` puts it in place of the real module. The fake counts the answers to each request, and rejects text that the
real API cannot encode.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FINAL = 1


class Tensor:
    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        self._name, self._array = name, array
        for item in array.flat if array.dtype == np.object_ else ():
            assert isinstance(item, (bytes, str))

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._array


class TritonError(Exception):
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        message.encode()  # Like pybind11, raises if the text has surrogates.
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class ResponseSender:
    def __init__(self, request: Request) -> None:
        self._request = request

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self._request.take(response, flags)

    def is_cancelled(self) -> bool:
        return False


class Trace:
    def get_context(self) -> None:
        return None


class Request:
    """A request as Triton passes it to `execute`. answers: its responses, in order; only the last is final."""

    def __init__(self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], request_id: str = "") -> None:
        """inputs: with the batch dimension."""
        self._inputs = {name: Tensor(name, array) for name, array in inputs.items()}
        self._outputs, self._id = list(outputs), request_id
        self.answers: list[InferenceResponse | None] = []
        self.ended = threading.Event()
        self.answered_after_the_end = 0

    def take(self, response: InferenceResponse | None, flags: int) -> None:
        """Raises RuntimeError: the final response was already sent."""
        if self.ended.is_set():
            self.answered_after_the_end += 1
            raise RuntimeError("Unable to send response. Response sender has been closed.")
        self.answers.append(response)
        if flags & FINAL:
            self.ended.set()

    def get_response_sender(self) -> ResponseSender:
        return ResponseSender(self)

    def inputs(self) -> list[Tensor]:
        return list(self._inputs.values())

    def input(self, name: str) -> Tensor | None:
        return self._inputs.get(name)

    def requested_output_names(self) -> list[str]:
        return self._outputs

    def request_id(self) -> str:
        return self._id

    def timeout(self) -> int:
        return 0

    def parameters(self) -> str:
        return "{}"

    def trace(self) -> Trace:
        return Trace()


class InferenceRequest:
    """A call of another model. `exec` returns or raises `outcome`."""

    outcome: Any = None

    def __init__(self, **given: Any) -> None:
        self.given = given

    def exec(self) -> InferenceResponse:
        outcome: InferenceResponse = type(self).outcome(self)
        return outcome


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, **_: Any) -> None:
        pass

    def Metric(self, **_: Any) -> Any:  # noqa: N802
        return self

    def set(self, value: float) -> None:
        pass

    increment = observe = set


def execute(model: Any, requests: Sequence[Request]) -> None:
    """Call `execute` as Triton does: if it raises, every request gets an error response."""
    try:
        responses = model.execute(requests)
    except BaseException as error:
        for request in requests:
            request.take(InferenceResponse(error=TritonError(ascii(error))), FINAL)
        return
    for request, response in zip(requests, responses or (), strict=False):
        if response is not None:
            request.take(response, FINAL)


def install() -> None:
    """Install this module as `triton_python_backend_utils`."""
    module = types.ModuleType("triton_python_backend_utils")
    vars(module).update(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        get_input_tensor_by_name=lambda request, name: request.input(name),
    )
    for kind in (Tensor, TritonError, InferenceResponse, InferenceRequest, MetricFamily):
        setattr(module, kind.__name__, kind)
    sys.modules.setdefault(module.__name__, module)
