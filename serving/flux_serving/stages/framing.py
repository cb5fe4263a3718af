"""What the vision tower is shown of a picture: squares of it, and how much of each place counts.

The tower's processor squashes whatever it gets to its own square, so all that is decided here is what it gets. What a
mask leaves out becomes white, as what is transparent does: the tower looks everywhere, so a weight of 0 alone would not
keep a place from being seen through its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from flux_serving.contract.knobs import IMAGE_FIT, IMAGE_MASK
from flux_serving.contract.limits import MAX_TILES
from flux_serving.errors import InvalidRequest

_WHITE, _ALL = (255, 255, 255), 255
#: Pixels of a padded square's side, several times what a vision tower sees; a picture of 60000 x 1 would fill memory.
_MAX_PADDED = 2048


@dataclass(frozen=True)
class View:
    """picture: RGB. cover: mode L of the same size, 255 where the picture counts; None: everywhere."""

    picture: Image.Image
    cover: Image.Image | None = None

    def coverage(self, side: int) -> Tensor | None:
        """(side * side,) float32: the share of each cell of a square grid that counts, exactly; None: all of all."""
        if self.cover is None:
            return None
        shares = Image.fromarray(np.asarray(self.cover, np.float32) / _ALL)
        cells = np.asarray(shares.resize((side, side), Image.Resampling.BOX))
        return torch.from_numpy(cells.flatten()).clamp(0, 1)


def views(picture: Image.Image, fit: str, mask: Image.Image | None = None, is_cropped: bool = False) -> list[View]:
    """One view, or as many as `tiles` needs.

    picture: RGB. fit: one of the contract's FITS. mask: mode L of the same size. is_cropped: to the box around what the
    mask leaves. Raises InvalidRequest: the mask is of another size or leaves nothing, or the picture is too oblong.
    """
    view = View(picture) if mask is None else _masked(picture, mask, is_cropped)
    return {"stretch": _stretched, "cover": _covering, "contain": _contained, "tiles": _tiled}[fit](view)


def _masked(picture: Image.Image, mask: Image.Image, is_cropped: bool) -> View:
    if mask.size != picture.size:
        raise InvalidRequest(
            f"{IMAGE_MASK.name} has {mask.width}x{mask.height} pixels for a picture of "
            f"{picture.width}x{picture.height}, expected the same"
        )
    box = mask.getbbox()
    if box is None:
        raise InvalidRequest(f"{IMAGE_MASK.name} is all black, so nothing is left of the picture")
    shown = Image.composite(picture, Image.new("RGB", picture.size, _WHITE), mask)
    view = View(shown, None if mask.getextrema() == (_ALL, _ALL) else mask)
    return _cut(view, box) if is_cropped else view


def _stretched(view: View) -> list[View]:
    return [view]


def _covering(view: View) -> list[View]:
    """The largest square, in the middle."""
    side = min(view.picture.size)
    left, top = (view.picture.width - side) // 2, (view.picture.height - side) // 2
    return [_cut(view, (left, top, left + side, top + side))]


def _contained(view: View) -> list[View]:
    """All of it, in the middle of a square."""
    picture = view.picture
    if picture.width == picture.height:
        return [view]
    square = (min(max(picture.size), _MAX_PADDED),) * 2
    cover = view.cover or Image.new("L", picture.size, _ALL)
    return [View(ImageOps.pad(picture, square, color=_WHITE), ImageOps.pad(cover, square, color=0))]


def _tiled(view: View) -> list[View]:
    """Squares of the shorter side, evenly along the longer one: as few as cover it."""
    width, height = view.picture.size
    short, long = sorted((width, height))
    count = -(-long // short)
    if count > MAX_TILES:
        raise InvalidRequest(
            f"{IMAGE_FIT.name}='tiles' takes {count} tiles for a picture of {width}x{height}, at most {MAX_TILES}"
        )
    starts = [round(i * (long - short) / max(1, count - 1)) for i in range(count)]
    boxes = [(s, 0, s + short, short) if width > height else (0, s, short, s + short) for s in starts]
    return [_cut(view, box) for box in boxes]


def _cut(view: View, box: tuple[int, int, int, int]) -> View:
    return View(view.picture.crop(box), view.cover and view.cover.crop(box))
