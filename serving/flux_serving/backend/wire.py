"""Reads Triton's requests and sends responses: checks tensors against the contract, maps errors to Triton's codes, and
logs failures with the request's id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from flux_contract.codes import CODES, sendable, with_code
from flux_contract.errors import DeviceLost, FluxError, GenerationFailed, InvalidRequest
from flux_contract.models import MODELS, Model
from flux_contract.tensors import Array, DType, Tensor
from flux_serving.backend.health import HEALTH

log = logging.getLogger(__name__)

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def read_inputs(model: Model, request: Any) -> dict[str, Array]:
    """Returns the inputs that are present, by name, checked against the contract, without the batch dimension.

    They are views of the request's memory: copy arrays that outlive `execute`.
    Raises InvalidRequest: a required input is absent, or a value breaks the contract.
    """
    values: dict[str, Array] = {}
    for tensor in model.inputs:
        found = pb_utils.get_input_tensor_by_name(request, tensor.name)
        if found is None:
            if not tensor.optional:
                raise InvalidRequest(f"{model.name}: {tensor.name} is missing")
            continue
        batched = found.as_numpy()
        if batched.shape[0] != 1:
            raise InvalidRequest(
                f"{model.name}: {tensor.name} has batch size {batched.shape[0]}, expected 1; send separate requests"
            )
        tensor.check(model.name, batched[0])
        values[tensor.name] = batched[0]
    return values


def answer(wanted: Collection[str], outputs: Mapping[Tensor, Array]) -> Any:
    """Returns a response with the wanted outputs. outputs: without the batch dimension."""
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor(tensor.name, np.ascontiguousarray(values[None]))
            for tensor, values in outputs.items()
            if tensor.name in wanted
        ]
    )


def full_message(model: Model, error: FluxError) -> str:
    """Returns the error's message, prefixed with the name of the model that found the error."""
    names = {known.name for known in MODELS}
    return str(error) if str(error).partition(":")[0] in names else f"{model.name}: {error}"


def send_last(
    model: Model,
    request_id: str,
    sender: Any,
    build: Callable[[], Any],
    *,
    describe: Callable[[BaseException], Any] | None = None,
    in_words: bool = False,
) -> None:
    """Send the final response of a request: the result of `build`, or the error that building or sending it raised.

    Never raises. build: returns None for a response without outputs. describe: builds the response of an error; None:
    `error_response`. in_words: as in `error_response`.

    The response and the final flag are sent together: sent apart, they crash Triton 2.51 in an ensemble under load.
    """
    failure: BaseException | None = None
    for attempt in (1, 2, 3):
        try:
            if failure is None:
                response = build()
            elif attempt == 2:
                response = describe(failure) if describe else error_response(model, request_id, failure, in_words)
            else:
                response = _last_resort(model, in_words)
            if response is None:
                sender.send(flags=_FINAL)
            else:
                sender.send(response, flags=_FINAL)
            return
        except BaseException as error:
            failure = error
            log.warning("%s: sending the response to request %r failed: %r", model.name, request_id, error)


def refuse(
    model: Model, request: Any, error: BaseException, *, tensor: Tensor | None = None, in_words: bool = False
) -> None:
    """Answer a request that has no other response with this error. Never raises.

    tensor: as in `refusal`. in_words: as in `error_response`.
    """
    for _ in range(2):
        try:
            request_id = request.request_id()
            wanted = () if tensor is None else request.requested_output_names()

            def described(
                failure: BaseException, request_id: str = request_id, wanted: Collection[str] = wanted
            ) -> Any:
                if tensor is None:
                    return error_response(model, request_id, failure, in_words)
                return refusal(model, wanted, request_id, failure, tensor)

            sender = request.get_response_sender()
            send_last(model, request_id, sender, partial(described, error), describe=described, in_words=in_words)
            return
        except BaseException:
            log.exception("%s: rejecting a request failed, retrying", model.name)


def error_response(model: Model, request_id: str, error: BaseException, in_words: bool = False) -> Any:
    """Returns a response with the message of an expected error, or without details for an unexpected one.

    in_words: whether the message contains the code (see contract/codes.py); a decoupled model's always does.
    """
    try:
        message, code = message_and_code(model, request_id, error)
        if in_words or model.decoupled:
            message = with_code(message, code)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))
    except BaseException:
        return _last_resort(model, in_words)


def _last_resort(model: Model, in_words: bool) -> Any:
    """Returns the response for an error whose own response could not be built."""
    code = CODES[GenerationFailed]
    words = f"{model.name}: the error could not be described; the server's log may have the details"
    message = with_code(words, code) if in_words or model.decoupled else words
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))


def refusal(model: Model, wanted: Collection[str], request_id: str, error: BaseException, tensor: Tensor | None) -> Any:
    """Returns a successful response that carries the error in this tensor, with minimal values in the other outputs.

    wanted: names of the requested outputs. If tensor is None or not among them, returns an error response.

    Triton's response cache may keep only errors of the request itself. Triton 2.51 does not store a response that has
    an output of zero bytes, so any other error has such outputs.
    """
    try:
        return _refusal(model, wanted, request_id, error, tensor)
    except BaseException as failure:
        return error_response(model, request_id, failure)


def _refusal_in(tensor: Tensor, model: Model, wanted: Collection[str], request_id: str, error: BaseException) -> Any:
    return refusal(model, wanted, request_id, error, tensor)


def _refusal(
    model: Model, wanted: Collection[str], request_id: str, error: BaseException, tensor: Tensor | None
) -> Any:
    if tensor is None or tensor.name not in wanted:
        return error_response(model, request_id, error)
    length = 1 if isinstance(error, InvalidRequest) else 0
    outputs = {output: _nothing(output, length) for output in model.outputs}
    outputs[tensor] = tensor.array(with_code(*message_and_code(model, request_id, error)))
    return answer(wanted, outputs)


def _nothing(tensor: Tensor, length: int) -> Array:
    """Returns a placeholder. length: of each dynamic dimension; 1 if the contract limits the length."""
    if tensor.dtype is DType.BYTES:
        return tensor.array("")
    if tensor.max_length is not None:
        length = 1
    return np.zeros([length if side == -1 else side for side in tensor.shape], tensor.dtype.numpy_type)


def message_and_code(model: Model, request_id: str, error: BaseException) -> tuple[str, str]:
    """Returns the message and the code of an error, and logs details that the caller must not see.

    An error that makes the GPU unusable ends the process.
    """
    if not isinstance(error, FluxError):
        log.error("%s: request %r failed", model.name, request_id, exc_info=error)
        error = GenerationFailed.unexpected(error)
    elif isinstance(error, GenerationFailed):
        log.error("%s: request %r failed: %s", model.name, request_id, error)
    if isinstance(error, DeviceLost):
        HEALTH.end("the GPU can no longer be used by this process")
    return sendable(full_message(model, error)), CODES.get(type(error), CODES[GenerationFailed])
