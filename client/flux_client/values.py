"""Converts an argument to a tensor and checks it against the contract. Pure, except that it reads image files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flux_client.images import encode_image, encode_images, encode_masks
from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_contract.parameter import Parameter
from flux_contract.parameters import IMAGE, IMAGE_MASK, NEGATIVE_PROMPT, PROMPT, SINGLE_IMAGES
from flux_contract.tensors import Array, DType, Tensor

_ENCODERS: Mapping[str, Callable[[Any], list[bytes] | bytes]] = {
    IMAGE.name: encode_images,
    IMAGE_MASK.name: encode_masks,
    **dict.fromkeys((parameter.name for parameter in SINGLE_IMAGES), encode_image),
}
_PROMPTS = (PROMPT.name, NEGATIVE_PROMPT.name)


def array_of(model: str, tensor: Tensor, value: Any) -> Array:
    """Convert a value to an array with Triton's leading batch dimension of 1.

    Raises InvalidRequest: the value breaks the contract. Raises TypeError: the value is not an image.
    """
    if tensor.name in _ENCODERS:
        value = _ENCODERS[tensor.name](value)
    elif tensor.dtype is DType.BYTES:
        _check_texts(model, tensor, value)
    else:
        _check_numbers(model, tensor, value)
    array = tensor.array(value)
    tensor.check(model, array)
    return array[np.newaxis]


def _check_numbers(model: str, tensor: Tensor, value: Any) -> None:
    """Check numbers before the cast, which would wrap 2**32 + 512 to 512."""
    try:
        given = np.atleast_1d(np.asarray(value))
    except ValueError:
        given = np.empty(0, dtype=np.object_)
    if given.dtype.kind not in ("iuf" if tensor.dtype is DType.FP32 else "iu"):
        raise InvalidRequest(f"{model}: {tensor.name}={value!r}, expected {tensor.dtype.wire_name}")
    tensor.check(model, given)


def _check_texts(model: str, tensor: Tensor, value: Any) -> None:
    choices = tensor.offered_choices if isinstance(tensor, Parameter) else tensor.choices
    for text in value if isinstance(value, (list, tuple)) and tensor.shape == (-1,) else [value]:
        if choices and (not isinstance(text, str) or text not in choices):
            raise InvalidRequest(f"{model}: {tensor.name}={text!r}, expected one of: {', '.join(choices)}")
        _check_text(model, tensor, text)


def _check_text(model: str, tensor: Tensor, text: Any) -> None:
    if not isinstance(text, str):
        raise InvalidRequest(f"{model}: {tensor.name}={text!r}, expected text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidRequest(f"{model}: {tensor.name} is not valid Unicode")
    if tensor.name in _PROMPTS and len(text) > limits.MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(
            f"{model}: {tensor.name} has {len(text)} characters, expected at most {limits.MAX_PROMPT_CHARACTERS}"
        )
