"""Cuts an image into the squares that the vision tower sees, and computes how much of each patch counts.

The tower's processor resizes each image to its own square size without keeping the aspect ratio, so this module only
decides which parts it receives. Masked areas become white, as transparent areas do. A token weight of 0 alone would not
hide them, because the tower's attention also carries their content into the tokens of other patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_contract.limits import MAX_TILES
from flux_contract.parameters import IMAGE_FIT, IMAGE_MASK
from flux_contract.tensors import Array

#: Value of a mask's pixel where the image counts fully.
_ALL = 255
#: Maximum side of a padded square in pixels, several times a vision tower's input. Without it, padding an image of
#: 60000 x 1 pixels would run out of memory.
_MAX_PADDED = 2048


@dataclass(frozen=True)
class Patches:
    """The patches of a vision tower: a grid of side x side, from the top left corner of its square.

    share: side of a patch as a fraction of the square's side. SigLIP's 27 patches of 14 pixels leave 6 of its 384
    pixels unused.
    """

    side: int
    share: float

    @classmethod
    def of_vision(cls, image_size: int, patch_size: int) -> Patches:
        return cls(image_size // patch_size, patch_size / image_size)


@dataclass(frozen=True)
class View:
    """A square for the vision tower.

    image: RGB. coverage: (patches,) float32, the fraction of each patch that counts; None: all patches count fully.
    """

    image: Image.Image
    coverage: Tensor | None = None

    def without_pixels(self) -> View:
        """Returns the same view with an image of one pixel, to free memory."""
        return replace(self, image=Image.new("RGB", (1, 1)))


@dataclass(frozen=True)
class _Cut:
    """A part of an image. cover: mode L, of the image's size, 255 where the image counts; None: everywhere."""

    image: Image.Image
    cover: Image.Image | None = None

    def crop(self, box: tuple[int, int, int, int]) -> _Cut:
        return _Cut(self.image.crop(box), self.cover and self.cover.crop(box))


def views(
    image: Image.Image, fit: str, patches: Patches, mask: Image.Image | None = None, is_cropped: bool = False
) -> list[View]:
    """Returns the views of an image: one, or several if fit is `tiles`.

    image: RGB. fit: one of the contract's FITS. mask: mode L, of the image's size. is_cropped: whether to crop the
    image to the bounding box of the mask.
    Raises InvalidRequest: the mask differs in size from the image or excludes the whole image, or the image needs too
    many tiles.
    """
    cut = _Cut(image) if mask is None else _masked(image, mask, is_cropped)
    cuts = {"stretch": _stretched, "cover": _covering, "contain": _contained, "tiles": _tiled}[fit](cut)
    framed = [_view(cut, patches) for cut in cuts]
    if not any(view.coverage is None or bool(view.coverage.any()) for view in framed):
        raise InvalidRequest(f"{IMAGE_MASK.name} excludes the whole image")
    return framed


def _view(cut: _Cut, patches: Patches) -> View:
    return View(cut.image, None if cut.cover is None else coverage(np.asarray(cut.cover), patches))


def coverage(cover: Array, patches: Patches) -> Tensor:
    """Returns the mean of `cover` over each patch, (patches,), 0..1. A patch's edges may lie within pixels.

    cover: (height, width) uint8.
    """
    means = _means(_means(cover.astype(np.float64), patches).T, patches).T
    return torch.from_numpy(np.clip(means.flatten() / _ALL, 0, 1).astype(np.float32))


def _means(rows: Array, patches: Patches) -> Array:
    """Average along the first axis over each patch: (n, m) to (patches.side, m)."""
    edges = np.arange(patches.side + 1) * patches.share * len(rows)
    sums = np.concatenate([np.zeros_like(rows[:1]), rows.cumsum(axis=0)])
    below = np.minimum(edges.astype(int), len(rows) - 1)
    upto = sums[below] + (edges - below)[:, None] * rows[below]
    means: Array = np.diff(upto, axis=0) / (patches.share * len(rows))
    return means


def _masked(image: Image.Image, mask: Image.Image, is_cropped: bool) -> _Cut:
    if mask.size != image.size:
        raise InvalidRequest(
            f"{IMAGE_MASK.name} has {mask.width}x{mask.height} pixels, expected the image's size, "
            f"{image.width}x{image.height}"
        )
    box = mask.getbbox()
    if box is None:
        raise InvalidRequest(f"{IMAGE_MASK.name} excludes the whole image")
    if mask.getextrema() == (_ALL, _ALL):
        return _Cut(image)
    cut = _Cut(Image.composite(image, Image.new("RGB", image.size, "white"), mask), mask)
    return cut.crop(box) if is_cropped else cut


def _stretched(cut: _Cut) -> list[_Cut]:
    return [cut]


def _covering(cut: _Cut) -> list[_Cut]:
    """Cut out the largest square in the middle."""
    side = min(cut.image.size)
    left, top = (cut.image.width - side) // 2, (cut.image.height - side) // 2
    return [cut.crop((left, top, left + side, top + side))]


def _contained(cut: _Cut) -> list[_Cut]:
    """Pad to a square, with the image in the middle."""
    image = cut.image
    if image.width == image.height:
        return [cut]
    cover = cut.cover or Image.new("L", image.size, _ALL)
    return [_Cut(_padded(image, "white"), _padded(cover, "black"))]


def _padded(image: Image.Image, colour: str) -> Image.Image:
    side = min(max(image.size), _MAX_PADDED)
    width, height = (max(1, round(length * side / max(image.size))) for length in image.size)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image.resize((width, height)), ((side - width) // 2, (side - height) // 2))
    return square


def _tiled(cut: _Cut) -> list[_Cut]:
    """Cut into squares with the shorter side's length, evenly spaced along the longer side: as few as cover it."""
    width, height = cut.image.size
    short, long = sorted((width, height))
    count = -(-long // short)
    if count > MAX_TILES:
        raise InvalidRequest(
            f"{IMAGE_FIT.name}='tiles' cuts {width}x{height} pixels into {count} tiles, expected at most {MAX_TILES}"
        )
    starts = [round(i * (long - short) / max(1, count - 1)) for i in range(count)]
    boxes = [(s, 0, s + short, short) if width > height else (0, s, short, s + short) for s in starts]
    return [cut.crop(box) for box in boxes]
