"""A call's arguments to tensors, checked by the contract before anything is sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from flux_client.pictures import Masks, Pictures, encode_masks, encode_pictures
from flux_client.strength import with_weights
from flux_serving.contract import limits
from flux_serving.contract.knobs import (
    IMAGE,
    IMAGE_MASK,
    OUTPUT_FORMAT,
    PREVIEW_METHOD,
    PREVIEW_STEPS,
    PROMPT,
)
from flux_serving.contract.models import FLUX_REDUX, FLUX_STREAM, Ensemble, Model
from flux_serving.contract.tensors import DType, Tensor
from flux_serving.errors import InvalidRequest

Array: TypeAlias = "npt.NDArray[Any]"

#: Every optional input of flux_stream is a keyword of `stream`, in small letters. Those of flux_redux that it has not
#: are what flux_stream itself tells the ensemble.
_STREAM_KNOBS = {tensor.name.lower(): tensor for tensor in FLUX_STREAM.inputs if tensor.optional}
#: `redux` takes the same but for previews: its one answer has no room for them.
_REDUX_KNOBS = {key: tensor for key, tensor in _STREAM_KNOBS.items() if tensor not in (PREVIEW_STEPS, PREVIEW_METHOD)}


class Knobs(TypedDict, total=False):
    """What `redux` and `stream` may be told beside the pictures; left out or None, the server's default holds."""

    #: Text beside the pictures; needs a base checkpoint with text encoders.
    prompt: str | None
    #: Weight of the pictures' tokens, 0..4, 1 is diffusers' picture. Of this and what else may be a sequence: one value
    #: for all pictures, or one each.
    image_strength: float | Sequence[float] | None
    #: The same from no picture, 0, to the whole picture, 1, with 0.5 half of the way; instead of image_strength.
    strength: float | Sequence[float] | None
    #: How several pictures become one condition: concat, or sum, which is diffusers' weighted sum.
    image_blend: str | None
    #: Redux tokens pooled into one along each side of their grid, 1..9: 1 is full detail, more leaves the mood.
    image_detail: int | Sequence[int] | None
    #: area or triangle.
    image_detail_filter: str | Sequence[str] | None
    #: What a pooled token weighs: one, or all that it stands for.
    image_detail_weight: str | Sequence[str] | None
    #: Pictures of the pictures' sizes, white where these count; None for one without a mask.
    image_mask: Masks | None
    #: 1 cuts a picture to the box around what its mask leaves.
    image_mask_crop: int | Sequence[int] | None
    #: What becomes of a picture that is no square: stretch, cover, contain or tiles.
    image_fit: str | Sequence[str] | None
    #: Fraction of the steps that are over when the picture comes in, and when it goes, 0..1.
    image_start: float | Sequence[float] | None
    image_end: float | Sequence[float] | None
    #: Weight of the prompt's tokens, 0..4.
    prompt_strength: float | None
    #: The same fractions for the prompt.
    prompt_start: float | None
    prompt_end: float | None
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
    unknown = sorted(set(knobs) - {*known, "strength"})
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}, expected one of: {', '.join(known)}")
    knobs = with_weights(knobs)
    pictures = encode_pictures(images)
    inputs = {IMAGE.name: _checked(model, IMAGE, pictures)}
    inputs |= {known[key].name: _checked(model, known[key], value) for key, value in knobs.items() if value is not None}
    for name, values in inputs.items():
        if values.size not in (1, len(pictures)):
            raise InvalidRequest(
                f"{model}: {name} has {values.size} values for {len(pictures)} pictures, expected one, or one each"
            )
    return Request(model, inputs, tuple(tensor.name for tensor in target.outputs))


def _checked(model: str, tensor: Tensor, value: Any) -> Array:
    if tensor is IMAGE_MASK:
        value = encode_masks(value)
    elif tensor.dtype is DType.BYTES:
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
    # Base64 is for callers without a client.
    choices = limits.FORMATS if tensor is OUTPUT_FORMAT else tensor.choices
    texts = list(value) if isinstance(value, (list, tuple)) and tensor.shape == (-1,) else [value]
    for text in texts if choices else ():
        if text not in choices:
            raise InvalidRequest(f"{model}: {tensor.name}={text!r}, expected one of: {', '.join(choices)}")
