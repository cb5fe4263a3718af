"""Likeness: a source is recognised in augmented copies, as used in training, and other images are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flux_tools.quality.likeness import Bytes, apart, distances, features, found_among_first, lab, middle
from flux_tools.training.augmentation import augment


def images(count: int) -> Bytes:
    """Return images of coloured shapes on white."""
    rng = np.random.default_rng(5)
    drawn = []
    for index in range(count):
        canvas = Image.new("RGB", (64, 64), "white")
        draw = ImageDraw.Draw(canvas)
        for _ in range(3):
            x, y, w, h = rng.integers((8, 8, 10, 10), (30, 30, 26, 26))
            box = (int(x), int(y), int(x + w), int(y + h))
            colour = tuple(int(value) for value in rng.integers(0, 255, 3))
            (draw.ellipse if index % 2 else draw.rectangle)(box, fill=colour)
        drawn.append(np.asarray(canvas))
    return np.stack(drawn)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (53.24, 80.09, 67.20))],
)
def test_lab_colours_match_cie(rgb: tuple[int, ...], expected: tuple[float, ...]) -> None:
    """Source of the expected values: Lindbloom's calculator, D65."""
    assert lab(np.array(rgb, np.uint8)).tolist() == pytest.approx(expected, abs=0.05)


def test_features_are_means_of_cells() -> None:
    assert features(np.full((64, 64, 3), 255, np.uint8)).reshape(8, 8, 3)[..., 0] == pytest.approx(100, abs=1e-3)


@pytest.mark.slow
def test_augmented_copy_is_nearest_to_its_source() -> None:
    sources = images(40)
    rng = np.random.default_rng(1)
    copies = np.stack([augment(source, rng) for source in sources])
    to_sources = distances(copies, sources)
    assert found_among_first(to_sources, np.arange(40), 1) >= 0.95
    assert to_sources.diagonal().mean() < 0.4 * to_sources.mean()


def test_middle_of_a_wide_image_is_a_square() -> None:
    source = images(1)[0]
    wide = np.pad(source, ((0, 0), (32, 32), (0, 0)), constant_values=255)
    assert np.array_equal(middle(wide), source)
    assert middle(np.repeat(np.repeat(wide, 2, 0), 2, 1)).shape == source.shape


def test_image_has_distance_zero_to_itself() -> None:
    sources = images(3)
    assert distances(sources, sources).diagonal() == pytest.approx(0, abs=0.05)
    assert apart(sources).diagonal() == pytest.approx(0)
    assert apart(sources)[0, 1] == pytest.approx(apart(sources)[1, 0])


def test_found_among_first_counts_nearer_sources() -> None:
    to_sources = np.array([[1.0, 2, 3], [1, 2, 3]], np.float32)
    own = np.array([0, 2])
    assert [found_among_first(to_sources, own, count) for count in (1, 2, 3)] == [0.5, 0.5, 1.0]
