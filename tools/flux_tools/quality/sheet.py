"""Sheets of images, enlarged without smoothing so that every pixel is visible."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from flux_tools.quality.likeness import Bytes

TILE, GAP, HEAD = 128, 8, 24


def sheet(
    head: Sequence[str], rows: Sequence[Sequence[Bytes]], captions: Sequence[str] = (), letters: int = 10
) -> Image.Image:
    """Draw rows of images below a head. rows: (height, width, 3) uint8 images, one for each label of the head.

    captions: one below each row. letters: font size of the head in pixels, at most 20.
    """
    step, down = TILE + GAP, TILE + (HEAD if captions else GAP)
    canvas = Image.new("RGB", (len(head) * step + GAP, HEAD + len(rows) * down), "white")
    draw = ImageDraw.Draw(canvas)
    for column, word in enumerate(head):
        middle = (GAP + column * step, HEAD // 2)
        draw.text(middle, word, fill="black", font=ImageFont.load_default(letters), anchor="lm")
    for line, row in enumerate(rows):
        for column, image in enumerate(row):
            canvas.paste(_tile(image), (GAP + column * step, HEAD + line * down))
    for line, caption in enumerate(captions):
        draw.text((GAP, HEAD + line * down + TILE + 4), caption, fill="black")
    return canvas


def captioned(captions: Sequence[str], images: Sequence[Bytes], columns: int) -> Image.Image:
    """Draw images in rows of `columns`, each with its wrapped caption below. images: (side, side, 3) uint8."""
    step, down = TILE + GAP, TILE + 3 * HEAD
    canvas = Image.new("RGB", (columns * step + GAP, -(-len(images) // columns) * down + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (caption, image) in enumerate(zip(captions, images, strict=True)):
        corner = (GAP + index % columns * step, GAP + index // columns * down)
        canvas.paste(_tile(image), corner)
        draw.text((corner[0], corner[1] + TILE + 4), textwrap.fill(caption, 22), fill="black")
    return canvas


def _tile(image: Bytes) -> Image.Image:
    """Fit an image into a tile, padded with grey if it is not square."""
    fitted = ImageOps.contain(Image.fromarray(image), (TILE, TILE), Image.Resampling.NEAREST)
    return ImageOps.pad(fitted, (TILE, TILE), color="lightgrey")
