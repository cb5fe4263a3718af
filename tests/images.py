"""Images for tests."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def drawn_image(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    """Draw coloured discs on a light background, different for each seed."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    rgb = np.full((height, width, 3), 245, np.uint8)
    for _ in range(4):
        centre, radius = rng.uniform([0, 0], [height, width]), rng.uniform(0.1, 0.35) * height
        rgb[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = rng.integers(0, 255, 3)
    return Image.fromarray(rgb)


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def slow_jpeg(number: int) -> bytes:
    """Returns a JPEG of 0.8 MB that takes seconds to decode: 90 scans without effect over 67 million pixels.

    The file differs for each number.
    """
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\x21" + bytes(30)
    comment = b"\xff\xfe\0\x0a%8d" % number
    return b"\xff\xd8" + comment + _large_jpeg()[2:-2] + scan * 90 + b"\xff\xd9"


@cache
def _large_jpeg() -> bytes:
    return encoded(Image.new("RGB", (8192, 8192)), "JPEG", progressive=True, quality=30)


def pixels(encoded_image: bytes) -> npt.NDArray[Any]:
    """Returns the pixels as signed integers, which can be subtracted."""
    return np.asarray(Image.open(io.BytesIO(encoded_image))).astype(int)
