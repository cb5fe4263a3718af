"""Copies of pictures that are moved, scaled, flipped; and pictures that nobody drew."""

from __future__ import annotations

import numpy as np
from PIL import Image

from flux_tools.demo.pictures import SIZE


def augment(rgb: np.ndarray, rng: np.random.Generator, much: float = 1.0) -> np.ndarray:
    """Scale by up to 15 %, shift by up to 10 %, flip half of the time; white where nothing was. Same shape out.

    much: all three by this factor.
    """
    scale = rng.uniform(1 - 0.15 * much, 1 + 0.15 * much)
    side = round(SIZE * scale)
    offset = rng.uniform(-0.1 * much, 0.1 * much, 2) * SIZE + (SIZE - side) / 2
    picture = Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS)
    if rng.random() < 0.5 * much:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    canvas.paste(picture, (round(offset[0]), round(offset[1])))
    return np.asarray(canvas)


def augmented(pictures: np.ndarray, copies: int, seed: int, much: float = 1.0) -> np.ndarray:
    """(n, 64, 64, 3) uint8 to (copies, n, 64, 64, 3); the first copy is the pictures themselves."""
    rng = np.random.default_rng(seed)
    rest = [np.stack([augment(rgb, rng, much) for rgb in pictures]) for _ in range(copies - 1)]
    return np.stack([pictures, *rest])


def remixed(pictures: np.ndarray, seed: int) -> np.ndarray:
    """Drawings that nobody drew: two halves of two pictures, in other colours. Shapes as given."""
    rng = np.random.default_rng(seed)
    left, right = (_recoloured(pictures[rng.permutation(len(pictures))], rng) for _ in range(2))
    half = SIZE // 2
    return np.concatenate([left[:, :, :half], right[:, :, half:]], axis=2)


def _recoloured(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.stack([rgb[..., rng.permutation(3)] for rgb in pictures])
