"""Brings the image and the mask of an inpainting request to the size of the generated image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import cv2
import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageChops, ImageOps

from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_contract.parameters import (
    MASK_CHANNEL,
    MASK_FEATHER,
    MASK_IMAGE,
    MASK_INVERT,
    MASK_SOFT,
    PADDING_MASK_CROP,
    SOURCE_IMAGE,
)
from flux_contract.tensors import Array
from flux_serving.images.canvas import Canvas
from flux_serving.images.image_decoding import Decode, decode_named
from flux_serving.images.resizing import SizedImage, resized

#: Its methods define how diffusers crops to a mask and resizes what it crops.
_PROCESSOR = VaeImageProcessor()


@dataclass(frozen=True)
class MaskOptions:
    """The mask of an inpainting request. crop_padding: pixels around the mask; None to generate the whole image."""

    encoded: bytes
    crop_padding: int | None
    channel: Annotated[str, MASK_CHANNEL]
    is_inverted: Annotated[bool, MASK_INVERT]
    is_soft: Annotated[bool, MASK_SOFT]
    feather: Annotated[int, MASK_FEATHER]


class InpaintedImage(NamedTuple):
    """image: RGB, of the size of the generated image. mask: (height, width) float32, 0..1, 1 where it is changed."""

    image: Image.Image
    mask: Array
    canvas: Canvas


def prepare_inpainting(source: Image.Image, options: SizedImage, mask: MaskOptions, decode: Decode) -> InpaintedImage:
    """source: the decoded image, RGB.

    Raises InvalidRequest: the mask is not an image, differs in size from the source, or selects nothing; or the image
    that a crop is pasted into is too large.
    """
    drawn = _decoded_mask(mask, decode, source.size)
    if mask.crop_padding is None:
        return _whole(source, drawn, options, mask)
    return _cropped(source, drawn, options, mask, mask.crop_padding)


def mask_of_latents(mask: Array, cell: int) -> Array:
    """The mask of each latent, from the first pixel of its cell. cell: pixels of a latent's side.

    mask: (height, width). Returns (height / cell, width / cell). Source: diffusers,
    `FluxInpaintPipeline.prepare_mask_latents`, which scales the mask by the nearest pixel.
    """
    return np.ascontiguousarray(mask[::cell, ::cell])


def _decoded_mask(mask: MaskOptions, decode: Decode, size: tuple[int, int]) -> Image.Image:
    """Returns the mask in mode L, 255 where the image is changed."""
    pixels = size[0] * size[1]
    on_black = decode_named(decode, MASK_IMAGE, 0, mask.encoded, pixels, behind="black")
    if mask.channel == "alpha":
        on_white = decode_named(decode, MASK_IMAGE, 0, mask.encoded, pixels, behind="white")
        drawn = ImageChops.difference(on_white, on_black).getchannel(0)
    else:
        drawn = on_black.convert("L")
    if drawn.size != size:
        expected = "x".join(map(str, size))
        raise InvalidRequest(
            f"{MASK_IMAGE.name} has {drawn.width}x{drawn.height} pixels, expected {expected} as {SOURCE_IMAGE.name}"
        )
    if mask.is_inverted:
        drawn = ImageOps.invert(drawn)
    if not _values(drawn, mask).any():
        raise InvalidRequest(f"{MASK_IMAGE.name} selects no pixel, so there is nothing to generate")
    return drawn


def _whole(source: Image.Image, drawn: Image.Image, options: SizedImage, mask: MaskOptions) -> InpaintedImage:
    placed = options.placement(source)
    image = resized(source, placed)
    # A border that the image does not cover is generated.
    scaled = resized(drawn.convert("RGB"), placed, around="white")
    values = _values(scaled, mask)
    weights = _weights(values, mask)
    return InpaintedImage(image, values, Canvas(np.asarray(image), weights, (0, 0, *image.size)))


def _cropped(
    source: Image.Image, drawn: Image.Image, options: SizedImage, mask: MaskOptions, padding: int
) -> InpaintedImage:
    if max(source.size) > limits.MAX_SIDE:
        raise InvalidRequest(
            f"{SOURCE_IMAGE.name} has {source.width}x{source.height} pixels, with {PADDING_MASK_CROP.name} expected "
            f"sides of at most {limits.MAX_SIDE}"
        )
    box: tuple[int, int, int, int] = _PROCESSOR.get_crop_region(drawn, options.width, options.height, padding)
    image, scaled = (
        _PROCESSOR.resize(each.crop(box), options.height, options.width, "fill") for each in (source, drawn)
    )
    weights = _weights(_values(drawn, mask), mask)
    return InpaintedImage(image, _values(scaled, mask), Canvas(np.asarray(source), weights, box))


def _values(scaled: Image.Image, mask: MaskOptions) -> Array:
    """(height, width) float32, 0..1. Source: diffusers, `VaeImageProcessor.binarize`."""
    values = np.asarray(scaled.convert("L"), np.float32) / 255
    return values if mask.is_soft else (values >= 0.5).astype(np.float32)


def _weights(values: Array, mask: MaskOptions) -> Array:
    """(height, width) uint8. Feathering lowers them near the edge of the mask, so that others keep weight 0."""
    if mask.feather:
        inside = (values > 0).astype(np.uint8)
        distances = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        values = values * np.minimum(distances / (mask.feather + 1), 1)
    weights: Array = np.rint(values * 255).astype(np.uint8)
    return weights
