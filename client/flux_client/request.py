"""Converts the arguments of a call to tensors, and checks them against the contract before the request is sent.

The functions are pure, except that they read image files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flux_client.images import ImageInputs
from flux_client.modes import EDGES_KEYWORDS, KEYWORDS, STREAM_KEYWORDS
from flux_client.similarity import with_weights
from flux_client.values import array_of
from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import EDGE_IMAGE, OUTPUT_IMAGE, OUTPUT_SEED, PREVIEW, PROGRESS
from flux_contract.models import CANNY_EDGES, FLUX_STREAM, MODE
from flux_contract.modes import BY_NAME
from flux_contract.parameter import Parameter
from flux_contract.parameters import IMAGE, IMAGE_PARAMETERS, LORA, LORA_SCALE, NUM_IMAGES, SEED, SIMILARITY
from flux_contract.tensors import Array, Tensor

_IMAGES = (OUTPUT_IMAGE.name, OUTPUT_SEED.name)


@dataclass(frozen=True)
class Request:
    """One inference request.

    inputs: by tensor name, with Triton's leading batch dimension of 1. outputs: names of the requested outputs.
    traceparent: W3C trace context header; only streams send it.
    """

    model: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    traceparent: str | None = None


def call_request(mode: str, arguments: Mapping[str, Any]) -> Request:
    """Build a request to the ensemble of `mode`.

    arguments: of the call, by keyword. An argument of None is the same as no argument.
    Raises InvalidRequest: an image or a value breaks the contract, or values contradict each other.
    Raises TypeError: an unknown or missing argument, or a value that is not an image.
    """
    model = BY_NAME[mode].ensemble.name
    return Request(model, _inputs(model, KEYWORDS[mode], arguments), _IMAGES)


def stream_request(
    mode: str, images: ImageInputs | None, arguments: Mapping[str, Any], traceparent: str | None = None
) -> Request:
    """Build a request to flux_stream, which also accepts options for previews.

    images: None for a mode without them. arguments: all others, as in `call_request`.
    Raises as `call_request`, and InvalidRequest: unknown mode.
    """
    model = FLUX_STREAM.name
    arguments = arguments if images is None else {"images": images, **arguments}
    mode_input = {} if mode == MODE.default else {MODE.name: array_of(model, MODE, mode)}
    inputs = _inputs(model, STREAM_KEYWORDS[mode], arguments)
    return Request(model, mode_input | inputs, (PROGRESS.name, PREVIEW.name, *_IMAGES), traceparent)


def edges_request(arguments: Mapping[str, Any]) -> Request:
    """Build a request to canny_edges. Raises as `call_request`."""
    return Request(CANNY_EDGES.name, _inputs(CANNY_EDGES.name, EDGES_KEYWORDS, arguments), (EDGE_IMAGE.name,))


def _inputs(model: str, keywords: Mapping[str, Parameter], arguments: Mapping[str, Any]) -> dict[str, Array]:
    for keyword in arguments:
        if keyword not in keywords:
            raise TypeError(f"unexpected keyword argument {keyword!r}, expected one of: {', '.join(keywords)}")
    if SIMILARITY.python_name in keywords:
        arguments = with_weights(arguments)
    given = {keyword: value for keyword, value in arguments.items() if value is not None}
    for keyword, tensor in keywords.items():
        if not tensor.optional and keyword not in given:
            if tensor.default is None:
                raise TypeError(f"missing argument {keyword!r}")
            given[keyword] = tensor.default
    inputs = {keywords[keyword].name: array_of(model, keywords[keyword], value) for keyword, value in given.items()}
    _check_one_each(model, inputs, IMAGE_PARAMETERS, _count(inputs, IMAGE), "images")
    _check_one_each(model, inputs, [LORA_SCALE], _count(inputs, LORA), "adapters")
    if NUM_IMAGES.name in inputs:
        _check_one_each(model, inputs, [SEED], inputs[NUM_IMAGES.name].item(), "images")
    return inputs


def _count(inputs: Mapping[str, Array], tensor: Tensor) -> int:
    return inputs[tensor.name].size if tensor.name in inputs else 0


def _check_one_each(
    model: str, inputs: Mapping[str, Array], tensors: Iterable[Tensor], count: int, things: str
) -> None:
    """Raises InvalidRequest: a tensor has several values, but not one for each of `count` things."""
    for tensor in tensors:
        if (values := _count(inputs, tensor)) > 1 and values != count:
            raise InvalidRequest(
                f"{model}: {tensor.name} has {values} values for {count} {things}, expected one, or one each"
            )
