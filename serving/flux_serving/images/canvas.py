"""Pastes a generated image into the image that it is a part of. It imports no torch, because CPU models use it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from flux_contract.tensors import Array


class Canvas(NamedTuple):
    """The image that a generated image is pasted into.

    pixels: (height, width, 3) uint8. weights: (height, width) uint8, the share of the generated image, 255 is all.
    box: left, top, right, bottom of the part that the generated image covers.
    """

    pixels: Array
    weights: Array
    box: tuple[int, int, int, int]


def paste(generated: Array, canvas: Canvas) -> Array:
    """Returns the canvas with the generated image in its box, (height, width, 3) uint8.

    generated: (height, width, 3) uint8, of any size. Pixels of weight 0 are those of the canvas, pixels of weight 255
    those of the generated image. Source: diffusers, `VaeImageProcessor.apply_overlay`.
    """
    left, top, right, bottom = canvas.box
    size = (right - left, bottom - top)
    if (generated.shape[1], generated.shape[0]) != size:
        generated = np.asarray(_resized_and_cropped(Image.fromarray(generated), *size))
    pixels = canvas.pixels.copy()
    part = pixels[top:bottom, left:right]
    weights = canvas.weights[top:bottom, left:right, None].astype(np.uint32)
    part[:] = (part * (255 - weights) + generated * weights + 127) // 255
    return pixels


def _resized_and_cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """Source: diffusers, `VaeImageProcessor.resize` with `resize_mode="crop"`."""
    is_wider = image.width * height > width * image.height
    scaled_width = image.width * height // image.height if is_wider else width
    scaled_height = height if is_wider else image.height * width // image.width
    scaled = image.resize((scaled_width, scaled_height), Image.Resampling.LANCZOS)
    cropped = Image.new("RGB", (width, height))
    cropped.paste(scaled, (width // 2 - scaled_width // 2, height // 2 - scaled_height // 2))
    return cropped
