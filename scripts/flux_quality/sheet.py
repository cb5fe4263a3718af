"""Rows of pictures with a head, enlarged without smoothing, so that every pixel can be judged."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from flux_quality.likeness import Bytes

TILE, GAP, HEAD = 128, 8, 24


def sheet(head: Sequence[str], rows: Sequence[Sequence[Bytes]]) -> Image.Image:
    """rows: (side, side, 3) uint8 each, as many as the head has words."""
    step = TILE + GAP
    canvas = Image.new("RGB", (len(head) * step + GAP, HEAD + len(rows) * step), "white")
    draw = ImageDraw.Draw(canvas)
    for column, word in enumerate(head):
        draw.text((GAP + column * step, 6), word, fill="black")
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST)
            canvas.paste(tile, (GAP + column * step, HEAD + line * step))
    return canvas
