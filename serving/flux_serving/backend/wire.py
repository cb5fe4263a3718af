"""Requests in, answers out: tensors by the contract, errors as Triton's codes, and a log that names the request."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from flux_serving.contract.codes import CODES, with_code
from flux_serving.contract.models import MODELS, Model
from flux_serving.contract.tensors import Array, DType, Tensor
from flux_serving.errors import FluxError, GenerationFailed, InvalidRequest

log = logging.getLogger(__name__)


def read_inputs(model: Model, request: Any) -> dict[str, Array]:
    """The inputs that are present, by name, checked by the contract, without the batch dimension.

    They are views of the request's memory: copy what outlives `execute`.
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
                f"{model.name}: {tensor.name} has a batch of {batched.shape[0]}; send one request for each"
            )
        tensor.check(model.name, batched[0])
        values[tensor.name] = batched[0]
    return values


def read_text(model: Model, tensor: Tensor, values: Mapping[str, Array]) -> str:
    """The text of a one-element BYTES input, or its default. Raises InvalidRequest: it is not UTF-8."""
    if tensor.name not in values:
        return str(tensor.default)
    item = values[tensor.name][0]
    try:
        return item if isinstance(item, str) else bytes(item).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{model.name}: {tensor.name} is not UTF-8") from None


def answer(wanted: Collection[str], outputs: Mapping[Tensor, Array]) -> Any:
    """A response with the outputs whose names are wanted. outputs: without the batch dimension."""
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor(tensor.name, np.ascontiguousarray(values[None]))
            for tensor, values in outputs.items()
            if tensor.name in wanted
        ]
    )


def send_refusal(sender: Any, response: Any) -> None:
    """Send an error or a refusal as the one answer of a request.

    At once: of an answer in two parts the response cache would keep the second, an empty one.
    """
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def send_outputs(sender: Any, response: Any) -> None:
    """Send outputs of any size as the one answer of a request.

    In two parts, because Triton 2.51 takes no second answer after one that was marked as final but found no room in
    /dev/shm; the caller would wait for ever. This way it gets an error of Triton's own.
    """
    try:
        sender.send(response, flags=0)
    finally:
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def full_message(model: Model, error: FluxError) -> str:
    """The error's words with the name of the model that found it in front."""
    names = {known.name for known in MODELS}
    return str(error) if str(error).partition(":")[0] in names else f"{model.name}: {error}"


def error_response(model: Model, request_id: str, error: Exception, in_words: bool = False) -> Any:
    """A response that says what went wrong: an expected error in its own words, any other without its details.

    in_words: whether the words tell the code too (see contract/codes.py); a decoupled model's always do.
    """
    message, code = _told(model, request_id, error)
    if in_words or model.decoupled:
        message = with_code(message, code)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))


def refusal(model: Model, wanted: Collection[str], request_id: str, error: Exception, tensor: Tensor | None) -> Any:
    """The same as an answer that has it in this tensor, and in the model's other outputs nothing of any size.

    wanted: names of the outputs that the request asks for. Where the tensor isn't among them, or None, it is an error
    all the same.

    Only what is wrong with the request itself may stay in Triton's response cache. Triton 2.51 does not store an answer
    one of whose outputs has no bytes at all, so any other refusal has such outputs.
    """
    if tensor is None or tensor.name not in wanted:
        return error_response(model, request_id, error)
    length = 1 if isinstance(error, InvalidRequest) else 0
    outputs = {output: _nothing(output, length) for output in model.outputs}
    outputs[tensor] = tensor.array(with_code(*_told(model, request_id, error)))
    return answer(wanted, outputs)


def _nothing(tensor: Tensor, length: int) -> Array:
    """length: of every side that may have any; 1 where the contract bounds the length."""
    if tensor.dtype is DType.BYTES:
        return tensor.array("")
    if tensor.max_length is not None:
        length = 1
    return np.zeros([length if side == -1 else side for side in tensor.shape], tensor.dtype.numpy_type)


def _told(model: Model, request_id: str, error: Exception) -> tuple[str, str]:
    """The words and the code of an error; the log has what the caller may not know."""
    if not isinstance(error, FluxError):
        log.error("%s: request %r failed", model.name, request_id, exc_info=error)
        error = GenerationFailed.unexpected(error)
    elif isinstance(error, GenerationFailed):
        log.error("%s: request %r failed: %s", model.name, request_id, error)
    return full_message(model, error), CODES.get(type(error), CODES[GenerationFailed])
