"""The measure of edge control: edges that lie where they were asked for count, others do not."""

from __future__ import annotations

import numpy as np
import pytest

from flux_tools.quality.edge_likeness import edges_of, f1, mean_f1
from flux_tools.quality.likeness import Bytes

EMPTY = np.zeros((32, 32), np.uint8)


def upright(*columns: int) -> Bytes:
    """Upright lines."""
    lines = EMPTY.copy()
    lines[:, list(columns)] = 255
    return lines


def test_edges_are_found_again() -> None:
    assert f1(upright(10, 20), upright(10, 20)) == 1.0


@pytest.mark.parametrize(("off_by", "found"), [(1, 1.0), (2, 1.0), (3, 0.0)])
def test_an_edge_may_be_two_pixels_off(off_by: int, found: float) -> None:
    assert f1(upright(10), upright(10 + off_by)) == found


def test_near_is_near_along_diagonals_too() -> None:
    asked, drawn = EMPTY.copy(), EMPTY.copy()
    asked[10, 10] = drawn[12, 12] = 255
    assert f1(asked, drawn) == 1.0
    assert f1(asked, drawn, within=1) == 0.0


@pytest.mark.parametrize(("asked", "drawn"), [((5,), (5, 15, 25)), ((5, 15, 25), (5,))])
def test_too_many_edges_count_as_much_against_a_drawing_as_too_few(
    asked: tuple[int, ...], drawn: tuple[int, ...]
) -> None:
    """One share is 1, the other a third."""
    assert f1(upright(*asked), upright(*drawn)) == pytest.approx(0.5)


@pytest.mark.parametrize(("asked", "drawn"), [(EMPTY, upright(5)), (upright(5), EMPTY), (EMPTY, EMPTY)])
def test_where_there_are_no_edges_none_are_followed(asked: Bytes, drawn: Bytes) -> None:
    assert f1(asked, drawn) == 0.0


def test_the_mean_is_over_pairs() -> None:
    assert mean_f1(np.stack([upright(5), upright(5)]), np.stack([upright(5), EMPTY])) == 0.5


def test_edges_are_where_colours_change() -> None:
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    image[:, :, 16:] = 0
    (found,) = edges_of(image)
    assert f1(upright(16), found) == 1.0
    assert not edges_of(np.full((1, 32, 32, 3), 255, np.uint8)).any()
