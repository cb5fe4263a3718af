"""Rows of images with a head, enlarged without smoothing, so that every pixel can be judged."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from flux_tools.quality.likeness import Bytes

TILE, GAP, HEAD = 128, 8, 24


def sheet(
    head: Sequence[str], rows: Sequence[Sequence[Bytes]], captions: Sequence[str] = (), letters: int = 10
) -> Image.Image:
    """rows: (height, width, 3) uint8 each, as many as the head has words. captions: below the rows, one for each.

    letters: pixels of the head's letters, at most 20.
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
    """(side, side, 3) uint8 each, row by row, with its caption below in as many lines as it needs."""
    step, down = TILE + GAP, TILE + 3 * HEAD
    canvas = Image.new("RGB", (columns * step + GAP, -(-len(images) // columns) * down + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (caption, image) in enumerate(zip(captions, images, strict=True)):
        corner = (GAP + index % columns * step, GAP + index // columns * down)
        canvas.paste(_tile(image), corner)
        draw.text((corner[0], corner[1] + TILE + 4), textwrap.fill(caption, 22), fill="black")
    return canvas


def _tile(image: Bytes) -> Image.Image:
    """As large as fits; grey beside what is not square."""
    fitted = ImageOps.contain(Image.fromarray(image), (TILE, TILE), Image.Resampling.NEAREST)
    return ImageOps.pad(fitted, (TILE, TILE), color="lightgrey")
