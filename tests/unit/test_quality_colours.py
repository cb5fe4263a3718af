"""The colour of an object is its hue, without the white background."""

from __future__ import annotations

import numpy as np
import pytest

from flux_tools.quality.colours import SWATCHES, chroma, is_of
from flux_tools.quality.likeness import Bytes


def square(*rgb: int) -> Bytes:
    """Return a small square on white."""
    image = np.full((32, 32, 3), 255, np.uint8)
    image[12:20, 12:20] = rgb
    return image


@pytest.mark.parametrize("name", SWATCHES)
def test_object_has_only_the_colour_of_its_swatch(name: str) -> None:
    assert [other for other in SWATCHES if is_of(square(*SWATCHES[name]), other)] == [name]


def test_pink_is_red_and_leaf_green_is_green() -> None:
    assert is_of(square(240, 90, 110), "red")
    assert is_of(square(120, 160, 20), "green", ("red", "green", "blue"))


@pytest.mark.parametrize("level", [0, 128, 250, 255])
def test_greys_have_no_colour(level: int) -> None:
    assert not any(is_of(square(level, level, level), name) for name in SWATCHES)
    assert chroma(square(level, level, level)) == pytest.approx(0, abs=0.1)


def test_chroma_is_the_mean_over_pixels() -> None:
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    assert chroma(red) == pytest.approx(np.hypot(80.09, 67.20), abs=0.1)
    half = red.copy()
    half[:4] = 255
    assert chroma(half) == pytest.approx(chroma(red) / 2, abs=0.1)
