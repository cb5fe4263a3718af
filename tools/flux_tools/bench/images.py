"""Input images: any number of different crops of eight images that are not in the demo checkpoint's training data."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

UNSEEN = Path(__file__).resolve().parents[1] / "demo" / "unseen"


def image(number: int) -> Image.Image:
    """Return one of the eight images, cropped at random with the seed `number` and resized to its original size."""
    originals = _originals()
    original = originals[number % len(originals)]
    chance = np.random.default_rng(number)
    scale = chance.uniform(0.85, 1.0)
    width, height = scale * original.width, scale * original.height
    left, top = chance.uniform(0, original.width - width), chance.uniform(0, original.height - height)
    return original.resize(original.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def encoded(number: int, occasion: str) -> bytes:
    """Return the image as PNG. occasion: text written into the file, so that each occasion has different bytes.

    Otherwise Triton's response cache, which compares bytes, would answer for images of an earlier measurement.
    """
    note = PngInfo()
    note.add_text("occasion", occasion)
    buffer = io.BytesIO()
    image(number).save(buffer, "PNG", pnginfo=note)
    return buffer.getvalue()


@cache
def _originals() -> tuple[Image.Image, ...]:
    return tuple(Image.open(path).convert("RGB") for path in sorted(UNSEEN.glob("*.png")))


def center_mask(image: Image.Image) -> Image.Image:
    """White in the middle of the image, a quarter of its area."""
    mask = Image.new("L", image.size)
    width, height = image.size
    mask.paste(255, (width // 4, height // 4, width // 4 + width // 2, height // 4 + height // 2))
    return mask


def mask_of(image: bytes) -> bytes:
    """`center_mask` of an encoded image, as PNG."""
    buffer = io.BytesIO()
    center_mask(Image.open(io.BytesIO(image))).save(buffer, "PNG")
    return buffer.getvalue()
