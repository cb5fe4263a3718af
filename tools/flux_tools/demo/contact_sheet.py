"""A sheet with one row for each image: the image, then its variations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

TILE = 192
GAP = 12
HEAD = 28
COLUMNS = 2


def contact_sheet(sources: Sequence[Path], variations: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Return the sheet: two blocks of rows side by side. Tiles are enlarged without smoothing, to show each pixel."""
    tiles_in_row = 1 + len(variations[0])
    block_width = tiles_in_row * (TILE + GAP) + 2 * GAP
    rows = -(-len(sources) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * block_width, HEAD + rows * (TILE + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(COLUMNS):
        draw.text((column * block_width + GAP, 8), "image", fill="black")
        draw.text((column * block_width + 2 * GAP + TILE + GAP, 8), "variations of it", fill="black")
    for index, (source, row) in enumerate(zip(sources, variations, strict=True)):
        column, line = divmod(index, rows)
        left, top = column * block_width + GAP, HEAD + line * (TILE + GAP)
        for position, image in enumerate([_on_white(source), *row]):
            shift = position * (TILE + GAP) + (GAP if position else 0)
            sheet.paste(image.resize((TILE, TILE), Image.Resampling.NEAREST), (left + shift, top))
        draw.rectangle((left - 1, top - 1, left + TILE, top + TILE), outline="#bbbbbb")
    return sheet


def _on_white(path: Path) -> Image.Image:
    rgba = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
