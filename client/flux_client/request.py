"""A call's arguments to tensors, checked by the contract before anything is sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from flux_client.pictures import Pictures, encode_pictures
from flux_serving.contract import limits
from flux_serving.contract.models import (
    FLUX_REDUX,
    FLUX_STREAM,
    IMAGE,
    IMAGE_STRENGTH,
    OUTPUT_FORMAT,
    PREVIEW_METHOD,
    PREVIEW_STEPS,
    PROMPT,
    Ensemble,
    Model,
)
from flux_serving.contract.tensors import DType, Tensor
from flux_serving.errors import InvalidRequest

Array: TypeAlias = "npt.NDArray[Any]"

#: Every optional input of flux_stream is a keyword of `stream`, in small letters. Those of flux_redux that it has not
#: are what flux_stream itself tells the ensemble.
_STREAM_KNOBS = {tensor.name.lower(): tensor for tensor in FLUX_STREAM.inputs if tensor.optional}
#: `redux` takes the same but for previews: its one answer has no room for them.
_REDUX_KNOBS = {key: tensor for key, tensor in _STREAM_KNOBS.items() if tensor not in (PREVIEW_STEPS, PREVIEW_METHOD)}

#: Texts that are one of a few words. Base64 is for callers without a client.
_CHOICES = {OUTPUT_FORMAT: limits.FORMATS, PREVIEW_METHOD: limits.PREVIEW_METHODS}


class Knobs(TypedDict, total=False):
    """What `redux` and `stream` may be told beside the pictures; left out or None, the server's default holds."""

    #: Text beside the pictures; needs a base checkpoint with text encoders.
    prompt: str | None
    #: Weight of the pictures' tokens, 0..4, 1 is diffusers' picture: one for all pictures, or one each.
    image_strength: float | Sequence[float] | None
    #: Pixels, a multiple of 16; default: the checkpoint's own size.
    height: int | None
    #: Pixels, a multiple of 16; default: the checkpoint's own size.
    width: int | None
    #: Denoising steps, 1..100.
    num_inference_steps: int | None
    #: Distilled guidance, 0..30.
    guidance_scale: float | None
    #: Variations wanted, 1..8; the i-th has seed `seed + i`.
    num_images: int | None
    #: Seed of the first variation, or -1 for a random one.
    seed: int | None
    #: png, jpeg or webp.
    output_format: str | None
    #: -1 background, 0 usual, 1 interactive: higher goes first; what is passed over for long rises.
    priority: int | None


@dataclass(frozen=True)
class Request:
    """One inference: inputs by tensor name, with Triton's leading batch dimension of 1; outputs wanted by name."""

    model: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]


def redux_request(images: Pictures, knobs: Mapping[str, Any]) -> Request:
    """A request for variations of `images`; what is left out or None is not sent.

    Raises InvalidRequest: a picture or a value breaks the contract.
    Raises TypeError: an unknown knob, or not a picture.
    """
    return _request(FLUX_REDUX, _REDUX_KNOBS, images, knobs)


def stream_request(images: Pictures, knobs: Mapping[str, Any]) -> Request:
    """The same for flux_stream, whose knobs are those of flux_redux and the previews'. Raises as `redux_request`."""
    return _request(FLUX_STREAM, _STREAM_KNOBS, images, knobs)


def _request(
    target: Ensemble | Model, known: Mapping[str, Tensor], images: Pictures, knobs: Mapping[str, Any]
) -> Request:
    model = target.name
    unknown = sorted(set(knobs) - set(known))
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}, expected one of: {', '.join(known)}")
    pictures = encode_pictures(images)
    inputs = {IMAGE.name: _checked(model, IMAGE, pictures)}
    inputs |= {known[key].name: _checked(model, known[key], value) for key, value in knobs.items() if value is not None}
    strengths = inputs.get(IMAGE_STRENGTH.name)
    if strengths is not None and strengths.size not in (1, len(pictures)):
        raise InvalidRequest(
            f"{model}: {IMAGE_STRENGTH.name} has {strengths.size} values for {len(pictures)} pictures, "
            "expected one value, or one each"
        )
    return Request(model, inputs, tuple(tensor.name for tensor in target.outputs))


def _checked(model: str, tensor: Tensor, value: Any) -> Array:
    if tensor.dtype is DType.BYTES:
        _check_text(model, tensor, value)
    else:
        _check_numbers(model, tensor, value)
    array = tensor.array(value)
    tensor.check(model, array)
    return array[np.newaxis]


def _check_numbers(model: str, tensor: Tensor, value: Any) -> None:
    """Look before the cast: it would wrap 2**32 + 512 round to a height of 512."""
    try:
        given = np.atleast_1d(np.asarray(value))
    except ValueError:
        given = np.empty(0, dtype=np.object_)
    if given.dtype.kind not in ("iuf" if tensor.dtype is DType.FP32 else "iu"):
        raise InvalidRequest(f"{model}: {tensor.name}={value!r}, expected {tensor.dtype.wire_name}")
    tensor.check(model, given)


def _check_text(model: str, tensor: Tensor, value: Any) -> None:
    if tensor is PROMPT:
        if not isinstance(value, str):
            raise InvalidRequest(f"{model}: {tensor.name}={value!r}, expected text")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRequest(f"{model}: {tensor.name} is no valid Unicode")
        if len(value) > limits.MAX_PROMPT_CHARACTERS:
            raise InvalidRequest(
                f"{model}: {tensor.name} has {len(value)} characters, expected at most {limits.MAX_PROMPT_CHARACTERS}"
            )
    choices = _CHOICES.get(tensor)
    if choices is not None and value not in choices:
        raise InvalidRequest(f"{model}: {tensor.name}={value!r}, expected one of: {', '.join(choices)}")
