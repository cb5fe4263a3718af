"""F1 of control edges and generated edges."""

from __future__ import annotations

import numpy as np
import pytest

from flux_tools.quality.edge_likeness import edges_of, f1, mean_f1
from flux_tools.quality.likeness import Bytes

EMPTY = np.zeros((32, 32), np.uint8)


def upright(*columns: int) -> Bytes:
    """Return vertical lines at these columns."""
    lines = EMPTY.copy()
    lines[:, list(columns)] = 255
    return lines


def test_identical_edges_have_an_f1_of_1() -> None:
    assert f1(upright(10, 20), upright(10, 20)) == 1.0


@pytest.mark.parametrize(("off_by", "found"), [(1, 1.0), (2, 1.0), (3, 0.0)])
def test_edge_matches_within_two_pixels(off_by: int, found: float) -> None:
    assert f1(upright(10), upright(10 + off_by)) == found


def test_tolerance_includes_diagonals() -> None:
    asked, drawn = EMPTY.copy(), EMPTY.copy()
    asked[10, 10] = drawn[12, 12] = 255
    assert f1(asked, drawn) == 1.0
    assert f1(asked, drawn, within=1) == 0.0


@pytest.mark.parametrize(("asked", "drawn"), [((5,), (5, 15, 25)), ((5, 15, 25), (5,))])
def test_extra_and_missing_edges_lower_f1_equally(asked: tuple[int, ...], drawn: tuple[int, ...]) -> None:
    """Precision or recall is 1, and the other is 1/3."""
    assert f1(upright(*asked), upright(*drawn)) == pytest.approx(0.5)


@pytest.mark.parametrize(("asked", "drawn"), [(EMPTY, upright(5)), (upright(5), EMPTY), (EMPTY, EMPTY)])
def test_f1_is_0_without_edges(asked: Bytes, drawn: Bytes) -> None:
    assert f1(asked, drawn) == 0.0


def test_mean_f1_is_the_mean_over_pairs() -> None:
    assert mean_f1(np.stack([upright(5), upright(5)]), np.stack([upright(5), EMPTY])) == 0.5


def test_edges_are_detected_where_colours_change() -> None:
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    image[:, :, 16:] = 0
    (found,) = edges_of(image)
    assert f1(upright(16), found) == 1.0
    assert not edges_of(np.full((1, 32, 32, 3), 255, np.uint8)).any()
