"""The images that are measured, and the result of a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from flux_tools.demo.images import DemoImage
from flux_tools.quality.likeness import Bytes

#: Number of rows of a sheet.
SHOWN = 8


@dataclass(frozen=True)
class Gallery:
    """Training images and held-out images. sources: (n, side, side, 3) uint8, the held-out images."""

    trained_on: Sequence[DemoImage]
    held_out: Sequence[DemoImage]
    sources: Bytes

    def some(self, count: int) -> Bytes:
        """Return `count` sources, evenly spaced over all of them."""
        return self.sources[spread(len(self.sources), count)]

    def pairs(self) -> list[tuple[Bytes, Bytes]]:
        """Return eighty pairs of sources, to blend."""
        return list(combinations(self.some(20), 2))[::2][:80]


@dataclass(frozen=True)
class Finding:
    """Result of a measurement. table: Markdown. sheet: a sample of the images.

    data: generated files of the product. images: other images of the documentation, by file name.
    """

    table: str
    sheet: Image.Image
    data: Mapping[Path, str] = field(default_factory=dict)
    images: Mapping[str, Image.Image] = field(default_factory=dict)


def spread(length: int, count: int = SHOWN) -> list[int]:
    """Return `count` indices, evenly spaced over a list of this length."""
    return [int(index) for index in np.linspace(0, length - 1, min(count, length))]


def strips(*columns: Sequence[Bytes] | Bytes) -> list[list[Bytes]]:
    """Return the rows of a sheet: SHOWN items of each column, evenly spaced."""
    return [[column[i] for column in columns] for i in spread(len(columns[0]))]
