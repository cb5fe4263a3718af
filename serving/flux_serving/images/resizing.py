"""Resizes images to the requested size, with the contract's SIZE_FITS for other aspect ratios."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from PIL import Image

from flux_contract.parameters import FIT


@dataclass(frozen=True)
class SizedImage:
    """An image file, the size to resize it to in pixels, and the fit."""

    encoded: bytes
    height: int
    width: int
    fit: Annotated[str, FIT]

    def placement(self, image: Image.Image) -> Placement:
        """Returns the placement of the decoded file."""
        return placement(*image.size, self.width, self.height, self.fit)


@dataclass(frozen=True)
class Placement:
    """Where an image is placed on a canvas. All values are in pixels.

    box: part of the image to use, (left, top, right, bottom). size: its size on the canvas, (width, height). place: its
    position, (left, top). canvas: the canvas's size, (width, height).
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    place: tuple[int, int]
    canvas: tuple[int, int]


def placement(width: int, height: int, wanted_width: int, wanted_height: int, fit: str) -> Placement:
    """Returns the placement of an image of this width and height. fit: one of the contract's SIZE_FITS."""
    canvas = (wanted_width, wanted_height)
    whole = (0.0, 0.0, float(width), float(height))
    scales = (wanted_width / width, wanted_height / height)
    if fit == "cover":
        shown_width, shown_height = wanted_width / max(scales), wanted_height / max(scales)
        left, top = (width - shown_width) / 2, (height - shown_height) / 2
        return Placement((left, top, left + shown_width, top + shown_height), canvas, (0, 0), canvas)
    if fit == "contain":
        size = (max(1, round(width * min(scales))), max(1, round(height * min(scales))))
        return Placement(whole, size, ((wanted_width - size[0]) // 2, (wanted_height - size[1]) // 2), canvas)
    return Placement(whole, canvas, (0, 0), canvas)


def resized(
    image: Image.Image,
    placed: Placement,
    around: str = "white",
    change: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """Resize an image and place it on its canvas.

    image: RGB. around: colour of the rest of the canvas. change: function to apply to the resized image first.
    Source of the filter: diffusers, `VaeImageProcessor`, which uses Lanczos.
    """
    is_whole = placed.box == (0, 0, *image.size)
    if not (is_whole and image.size == placed.size):
        image = image.resize(placed.size, Image.Resampling.LANCZOS, box=placed.box)
    if change is not None:
        image = change(image)
    if placed.size == placed.canvas:
        return image
    canvas = Image.new("RGB", placed.canvas, around)
    canvas.paste(image, placed.place)
    return canvas
