"""Copies of pictures that are moved, scaled, flipped; and pictures that nobody drew."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from flux_tools.demo.pictures import SIZE


def augment(rgb: npt.NDArray[np.uint8], rng: np.random.Generator, much: float = 1.0) -> npt.NDArray[np.uint8]:
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


def augmented(pictures: npt.NDArray[np.uint8], copies: int, seed: int, much: float = 1.0) -> npt.NDArray[np.uint8]:
    """(n, 64, 64, 3) uint8 to (copies, n, 64, 64, 3); the first copy is the pictures themselves."""
    rng = np.random.default_rng(seed)
    rest = [np.stack([augment(rgb, rng, much) for rgb in pictures]) for _ in range(copies - 1)]
    return np.stack([pictures, *rest])


def remixed(pictures: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Drawings that nobody drew: two halves of two pictures, in other colours. Shapes as given."""
    rng = np.random.default_rng(seed)
    left, right = (_recoloured(pictures[rng.permutation(len(pictures))], rng) for _ in range(2))
    half = SIZE // 2
    return np.concatenate([left[:, :, :half], right[:, :, half:]], axis=2)


def _recoloured(pictures: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return np.stack([rgb[..., rng.permutation(3)] for rgb in pictures])
