"""The images that questions are asked about, and the form of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from flux_tools.demo.images import DemoImage
from flux_tools.quality.likeness import Bytes

#: Rows of a sheet.
SHOWN = 8


@dataclass(frozen=True)
class Gallery:
    """sources: (n, side, side, 3) uint8, of the held-out images."""

    trained_on: Sequence[DemoImage]
    held_out: Sequence[DemoImage]
    sources: Bytes

    def some(self, count: int) -> Bytes:
        """So many sources, evenly over all of them."""
        return self.sources[spread(len(self.sources), count)]

    def pairs(self) -> list[tuple[Bytes, Bytes]]:
        """Eighty of some of them, to blend."""
        return list(combinations(self.some(20), 2))[::2][:80]


@dataclass(frozen=True)
class Finding:
    """table: Markdown. sheet: what was drawn, for looking at. data: files of the product that follow from it.

    images: others of the docs, by their files' names.
    """

    table: str
    sheet: Image.Image
    data: Mapping[Path, str] = field(default_factory=dict)
    images: Mapping[str, Image.Image] = field(default_factory=dict)


def spread(length: int, count: int = SHOWN) -> list[int]:
    """Indices, evenly over the whole list."""
    return [int(index) for index in np.linspace(0, length - 1, min(count, length))]


def strips(*columns: Sequence[Bytes] | Bytes) -> list[list[Bytes]]:
    """Rows of a sheet from its columns: a few, evenly over their whole length."""
    return [[column[i] for column in columns] for i in spread(len(columns[0]))]
