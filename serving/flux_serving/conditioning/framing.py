"""What the vision tower is shown of an image: squares of it, and how much of each of its patches counts.

The tower's processor squashes whatever it gets to its own square, so all that is decided here is what it gets. What a
mask leaves out becomes white, as what is transparent does: the tower looks everywhere, so a weight of 0 alone would not
keep a place from being seen through its neighbours.
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

#: A pixel of a mask that counts wholly.
_ALL = 255
#: Pixels of a padded square's side, several times what a vision tower sees; one of 60000 x 1 would fill memory.
_MAX_PADDED = 2048


@dataclass(frozen=True)
class Patches:
    """How a vision tower divides its square: side x side patches, from the corner on, of this share of its side each.

    SigLIP's 27 patches of 14 pixels leave 6 of its 384 pixels unseen.
    """

    side: int
    share: float

    @classmethod
    def of_vision(cls, image_size: int, patch_size: int) -> Patches:
        return cls(image_size // patch_size, patch_size / image_size)


@dataclass(frozen=True)
class View:
    """image: RGB. coverage: (patches,) float32, the share of each that counts; None: all of all."""

    image: Image.Image
    coverage: Tensor | None = None

    def without_pixels(self) -> View:
        """The same view with an image of one pixel, to free the memory of the image."""
        return replace(self, image=Image.new("RGB", (1, 1)))


@dataclass(frozen=True)
class _Cut:
    """image: RGB. cover: mode L of the same size, 255 where the image counts; None: everywhere."""

    image: Image.Image
    cover: Image.Image | None = None

    def crop(self, box: tuple[int, int, int, int]) -> _Cut:
        return _Cut(self.image.crop(box), self.cover and self.cover.crop(box))


def views(
    image: Image.Image, fit: str, patches: Patches, mask: Image.Image | None = None, is_cropped: bool = False
) -> list[View]:
    """One view, or as many as `tiles` needs.

    image: RGB. fit: one of the contract's FITS. mask: mode L of the same size. is_cropped: to the box around what the
    mask leaves. Raises InvalidRequest: the mask is of another size, nothing is left of the image, or it is too long.
    """
    cut = _Cut(image) if mask is None else _masked(image, mask, is_cropped)
    cuts = {"stretch": _stretched, "cover": _covering, "contain": _contained, "tiles": _tiled}[fit](cut)
    shown = [_view(cut, patches) for cut in cuts]
    if not any(view.coverage is None or bool(view.coverage.any()) for view in shown):
        raise InvalidRequest(f"{IMAGE_MASK.name} leaves nothing of the image")
    return shown


def _view(cut: _Cut, patches: Patches) -> View:
    return View(cut.image, None if cut.cover is None else coverage(np.asarray(cut.cover), patches))


def coverage(cover: Array, patches: Patches) -> Tensor:
    """(height, width) uint8 to (patches,): the mean over each patch, whose edges may lie within pixels, over 255."""
    means = _means(_means(cover.astype(np.float64), patches).T, patches).T
    return torch.from_numpy(np.clip(means.flatten() / _ALL, 0, 1).astype(np.float32))


def _means(rows: Array, patches: Patches) -> Array:
    """(n, m) to (patches.side, m)."""
    edges = np.arange(patches.side + 1) * patches.share * len(rows)
    sums = np.concatenate([np.zeros_like(rows[:1]), rows.cumsum(axis=0)])
    below = np.minimum(edges.astype(int), len(rows) - 1)
    upto = sums[below] + (edges - below)[:, None] * rows[below]
    means: Array = np.diff(upto, axis=0) / (patches.share * len(rows))
    return means


def _masked(image: Image.Image, mask: Image.Image, is_cropped: bool) -> _Cut:
    if mask.size != image.size:
        raise InvalidRequest(
            f"{IMAGE_MASK.name} has {mask.width}x{mask.height} pixels for an image of "
            f"{image.width}x{image.height}, expected the same"
        )
    box = mask.getbbox()
    if box is None:
        raise InvalidRequest(f"{IMAGE_MASK.name} leaves nothing of the image")
    if mask.getextrema() == (_ALL, _ALL):
        return _Cut(image)
    cut = _Cut(Image.composite(image, Image.new("RGB", image.size, "white"), mask), mask)
    return cut.crop(box) if is_cropped else cut


def _stretched(cut: _Cut) -> list[_Cut]:
    return [cut]


def _covering(cut: _Cut) -> list[_Cut]:
    """The largest square, in the middle."""
    side = min(cut.image.size)
    left, top = (cut.image.width - side) // 2, (cut.image.height - side) // 2
    return [cut.crop((left, top, left + side, top + side))]


def _contained(cut: _Cut) -> list[_Cut]:
    """All of it, in the middle of a square."""
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
    """Squares of the shorter side, evenly along the longer one: as few as cover it."""
    width, height = cut.image.size
    short, long = sorted((width, height))
    count = -(-long // short)
    if count > MAX_TILES:
        raise InvalidRequest(
            f"{IMAGE_FIT.name}='tiles' takes {count} tiles for an image of {width}x{height}, at most {MAX_TILES}"
        )
    starts = [round(i * (long - short) / max(1, count - 1)) for i in range(count)]
    boxes = [(s, 0, s + short, short) if width > height else (0, s, short, s + short) for s in starts]
    return [cut.crop(box) for box in boxes]
