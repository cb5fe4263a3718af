"""Augments images: copies that are moved, scaled and flipped, and combinations of two images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from flux_tools.demo.images import SIZE


def augment(rgb: npt.NDArray[np.uint8], rng: np.random.Generator, much: float = 1.0) -> npt.NDArray[np.uint8]:
    """Scale by up to 15%, shift by up to 10%, and flip with probability 0.5, on white. Returns the same shape.

    much: factor of all three.
    """
    scale = rng.uniform(1 - 0.15 * much, 1 + 0.15 * much)
    side = round(SIZE * scale)
    offset = rng.uniform(-0.1 * much, 0.1 * much, 2) * SIZE + (SIZE - side) / 2
    image = Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS)
    if rng.random() < 0.5 * much:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    canvas.paste(image, (round(offset[0]), round(offset[1])))
    return np.asarray(canvas)


def augmented(images: npt.NDArray[np.uint8], copies: int, seed: int, much: float = 1.0) -> npt.NDArray[np.uint8]:
    """Return (copies, n, 64, 64, 3) uint8 for (n, 64, 64, 3); the first copy is unchanged."""
    rng = np.random.default_rng(seed)
    rest = [np.stack([augment(rgb, rng, much) for rgb in images]) for _ in range(copies - 1)]
    return np.stack([images, *rest])


def remixed(images: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Combine the halves of two images, with permuted colour channels. Returns the same shape."""
    rng = np.random.default_rng(seed)
    left, right = (_recoloured(images[rng.permutation(len(images))], rng) for _ in range(2))
    half = SIZE // 2
    return np.concatenate([left[:, :, :half], right[:, :, half:]], axis=2)


def _recoloured(images: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return np.stack([rgb[..., rng.permutation(3)] for rgb in images])
