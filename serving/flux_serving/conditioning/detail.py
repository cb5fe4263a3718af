"""Reduces detail: pools Redux tokens on their grid, so that an image contributes its mood rather than its shapes.

Source of the idea: ComfyUI_AdvancedRefluxControl (kaibioinfo), whose simple node divides the grid's side by 1 to 5,
rounded down as here. A pooled token is the mean of the tokens that it replaces, weighted by their coverage: the share
of a token's patch that no mask or padding excludes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def pooled(tokens: Tensor, coverage: Tensor | None, factor: int, filter_name: str) -> tuple[Tensor, Tensor]:
    """Pool tokens on their square grid.

    tokens: (side * side, width), row by row. coverage: (side * side,), 0..1; None: 1 for all. factor: 1 or more.
    filter_name: one of the contract's DETAIL_FILTERS. Returns the pooled tokens and their coverage.
    """
    if factor == 1:
        return tokens, torch.ones(len(tokens)) if coverage is None else coverage
    if coverage is None:
        fewer = _pooled(tokens.float(), factor, filter_name)
        return fewer.to(tokens.dtype), torch.ones(len(fewer))
    share = coverage.to(tokens.device)[:, None]
    sums, covered = _pooled(tokens.float() * share, factor, filter_name), _pooled(share, factor, filter_name)
    return (sums / torch.where(covered > 0, covered, 1.0)).to(tokens.dtype), covered[:, 0].cpu()


def pooled_count(tokens: int, factor: int) -> int:
    """Returns the number of tokens after pooling this many tokens on a square grid."""
    return max(1, math.isqrt(tokens) // factor) ** 2


def _pooled(values: Tensor, factor: int, filter_name: str) -> Tensor:
    """Pool values on their grid: (side * side, width) to (smaller side squared, width)."""
    side, small = math.isqrt(len(values)), math.isqrt(pooled_count(len(values), factor))
    grid = values.T.reshape(1, -1, side, side)
    if filter_name == "area":
        pooled_grid = interpolate(grid, (small, small), mode="area")
    else:
        pooled_grid = interpolate(grid, (small, small), mode="bilinear", antialias=True)
    return pooled_grid[0].flatten(1).T
