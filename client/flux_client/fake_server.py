"""Responses and errors of the fake server. `fake` has the transport that connects it to a client.

ensembles: those of the fake server, which checks requests against their inputs.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from flux_client.request import Request
from flux_client.transport import Answer
from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import (
    CANCEL,
    DEVICE,
    EDGE_IMAGE,
    INSTANCE,
    JOBS,
    OUTPUT_IMAGE,
    OUTPUT_SEED,
    PREVIEW,
    PROGRESS,
    PROGRESS_ADDRESS,
    ROOM,
    SECONDS_LEFT,
    STREAM_TOKEN,
)
from flux_contract.models import (
    CANNY_EDGES,
    ENSEMBLES,
    FLUX_BASE,
    FLUX_STATUS,
    FLUX_STREAM,
    Ensemble,
    mode_name,
    mode_tensor,
)
from flux_contract.parameters import (
    IMAGE,
    NUM_INFERENCE_STEPS,
    OUTPUT_FORMAT,
    PREVIEW_STEPS,
    PROMPT,
    SINGLE_IMAGES,
    SIZE,
)
from flux_contract.seeds import image_seeds
from flux_contract.tensors import Array, Tensor

#: Side of an image in pixels if the request does not set it.
DEFAULT_SIDE = 64

_STREAM = FLUX_STREAM.name
#: Number of images that an idle instance accepts.
_ROOM = next(int(parameter.default) for parameter in FLUX_BASE.parameters if parameter.name == "MAX_WAITING")
_ANY_TOKEN = "0" * 22
_IMAGES = tuple(parameter.name for parameter in (IMAGE, *SINGLE_IMAGES))


def is_served(model: str, ensembles: Sequence[Ensemble] = ENSEMBLES) -> bool:
    return model in _inputs(ensembles) or model in (_STREAM, FLUX_STATUS.name)


def answer(request: Request, ensembles: Sequence[Ensemble] = ENSEMBLES) -> Answer:
    """Return the response of an ensemble or of canny_edges, with synthetic images.

    Raises InvalidRequest: the request breaks the contract.
    """
    inputs = _inputs(ensembles)
    if request.model not in inputs:
        raise _unknown_model(request)
    return _asked_for(request, _last_answer(request.model, _checked(request, inputs[request.model])))


def status_answer(request: Request) -> Answer:
    """Return the response of flux_status: one idle instance on the CPU. Raises as `answer`."""
    _checked(request, FLUX_STATUS.inputs)
    outputs = {INSTANCE: b"flux_base_0_0", DEVICE: b"cpu", SECONDS_LEFT: 0.0, JOBS: 0, ROOM: _ROOM}
    return _asked_for(request, {tensor.name: tensor.array(value)[np.newaxis] for tensor, value in outputs.items()})


def stream_answers(request: Request, ensembles: Sequence[Ensemble] = ENSEMBLES) -> Iterator[Answer]:
    """Yield the responses of flux_stream, in which all images run in step. The first response raises as `answer`."""
    if request.model != _STREAM:
        raise _unknown_model(request)
    if CANCEL.name in request.inputs:
        # The fake transport cancels its streams without such a request.
        raise InvalidRequest(f"{_STREAM}: {CANCEL.name}: no running stream has this token; it may have ended")
    inputs = _checked(request, _stream_inputs(request, ensembles))
    if not re.fullmatch(limits.STREAM_TOKEN_PATTERN, _text(inputs.get(STREAM_TOKEN.name, [_ANY_TOKEN])[0])):
        raise InvalidRequest(f"{_STREAM}: {STREAM_TOKEN.name} does not match {limits.STREAM_TOKEN_PATTERN}")
    last = _last_answer(request.model, inputs)
    steps = NUM_INFERENCE_STEPS.value_in(inputs, limits.DEFAULT_STEPS)
    preview_steps = PREVIEW_STEPS.value_in(inputs)
    for step in range(steps + 1):
        for image, seed in enumerate(last[OUTPUT_SEED.name][0].tolist()):
            progress: dict[str, Array] = {PROGRESS.name: np.array([[image, step, steps]], dtype=np.int32)}
            if 0 < step < steps and preview_steps and step % preview_steps == 0:
                progress[PREVIEW.name] = _texts([_image(seed, step, (8, 8), "jpeg")])
            yield _asked_for(request, progress)
    yield _asked_for(request, last)


def _inputs(ensembles: Sequence[Ensemble]) -> dict[str, tuple[Tensor, ...]]:
    """Inputs of the models that send one response, by model."""
    return {**{each.name: each.inputs for each in ensembles}, CANNY_EDGES.name: CANNY_EDGES.inputs}


def _stream_inputs(request: Request, ensembles: Sequence[Ensemble]) -> tuple[Tensor, ...]:
    """Inputs of flux_stream in the request's mode: those of the ensemble, the mode and the token."""
    mode = mode_tensor(ensembles)
    given = {}
    if mode.name in request.inputs:
        _check(request.model, mode, request.inputs[mode.name])
        given[mode.name] = request.inputs[mode.name][0]
    name = _choice(request.model, given, mode, mode.choices)
    ensemble = next(each for each in ensembles if mode_name(each) == name)
    return (mode, STREAM_TOKEN, *(tensor for tensor in ensemble.inputs if tensor != PROGRESS_ADDRESS))


def _last_answer(model: str, inputs: Mapping[str, Array]) -> Answer:
    """Return the images, their seeds and the edge map."""
    height, width = (int(inputs.get(side.name, [DEFAULT_SIDE])[0]) for side in SIZE)
    image_format = _choice(model, inputs, OUTPUT_FORMAT, OUTPUT_FORMAT.offered_choices)
    shown = zlib.crc32(b"".join(data for name in (*_IMAGES, PROMPT.name) for data in inputs.get(name, ())))
    seeds = image_seeds(inputs)
    return {
        OUTPUT_IMAGE.name: _texts([_image(seed, shown, (width, height), image_format) for seed in seeds]),
        OUTPUT_SEED.name: np.array([seeds], dtype=np.int64),
        EDGE_IMAGE.name: _texts([_image(0, shown, (width, height), "png")]),
    }


def _asked_for(request: Request, outputs: Answer) -> Answer:
    return {name: array for name, array in outputs.items() if name in request.outputs}


def _unknown_model(request: Request) -> InvalidRequest:
    return InvalidRequest(f"Request for unknown model: '{request.model}' is not found")


def _checked(request: Request, tensors: tuple[Tensor, ...]) -> dict[str, Array]:
    """Check the inputs and return them without the batch dimension. tensors: those that the model accepts."""
    known = {tensor.name: tensor for tensor in tensors}
    for name in request.inputs:
        if name not in known:
            raise InvalidRequest(f"{request.model}: unexpected input {name}")
    for tensor in tensors:
        if tensor.name in request.inputs:
            _check(request.model, tensor, request.inputs[tensor.name])
        elif not tensor.optional:
            raise InvalidRequest(f"{request.model}: {tensor.name} is missing")
    inputs = {name: array[0] for name, array in request.inputs.items()}
    for name in _IMAGES:
        for data in inputs.get(name, ()):
            _check_image(request.model, name, data)
    return inputs


def _check(model: str, tensor: Tensor, array: Array) -> None:
    if array.dtype != tensor.dtype.numpy_type:
        raise InvalidRequest(f"{model}: {tensor.name} has type {array.dtype}, expected {tensor.dtype.wire_name}")
    if array.ndim == 0 or array.shape[0] != 1:
        raise InvalidRequest(
            f"{model}: {tensor.name} has shape {list(array.shape)}, expected [1, {list(tensor.shape)}]"
        )
    tensor.check(model, array[0])
    if tensor in SIZE and array.item() % limits.SIDE_MULTIPLE:
        raise InvalidRequest(f"{model}: {tensor.name}={array.item()}, expected a multiple of {limits.SIDE_MULTIPLE}")


def _check_image(model: str, name: str, data: bytes) -> None:
    try:
        Image.open(BytesIO(data)).close()
    except UnidentifiedImageError:
        try:
            Image.open(BytesIO(base64.b64decode(data.rpartition(b",")[2], validate=True))).close()
        except (UnidentifiedImageError, binascii.Error):
            raise InvalidRequest(f"{model}: {name} is not an image") from None


def _choice(model: str, inputs: Mapping[str, Array], tensor: Tensor, choices: tuple[str, ...]) -> str:
    value = inputs.get(tensor.name, np.array([tensor.default]))[0]
    text = _text(value)
    if text not in choices:
        raise InvalidRequest(f"{model}: {tensor.name}={text!r}, expected one of: {', '.join(choices)}")
    return text


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _texts(values: list[bytes]) -> Array:
    """Return the values as an output tensor of one request."""
    texts = np.empty((1, len(values)), dtype=np.object_)
    texts[0, :] = values
    return texts


def _image(seed: int, shown: int, size: tuple[int, int], image_format: str) -> bytes:
    patches = np.random.default_rng([seed, shown]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(patches).resize(size).save(buffer, format=image_format)
    return buffer.getvalue()
