"""Pictures made for tests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def drawn_picture(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    """A few coloured discs on a light ground, different for each seed."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    rgb = np.full((height, width, 3), 245, np.uint8)
    for _ in range(4):
        centre, radius = rng.uniform([0, 0], [height, width]), rng.uniform(0.1, 0.35) * height
        rgb[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = rng.integers(0, 255, 3)
    return Image.fromarray(rgb)


def encoded(picture: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels(encoded_picture: bytes) -> np.ndarray:
    """As signed numbers, so that they can be subtracted."""
    return np.asarray(Image.open(io.BytesIO(encoded_picture))).astype(int)
