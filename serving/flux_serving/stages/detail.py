"""Less detail: Redux tokens pooled on their grid, so that a picture gives its mood rather than its shapes.

Source of the idea: ComfyUI_AdvancedReduxControl (kaibioinfo), whose simple node divides the grid's side by 1 to 5,
rounded down as here. What a mask or padding covers in part counts in part: a pooled token is the mean of the tokens
that it stands for, each as much as it is covered.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def pooled(tokens: Tensor, coverage: Tensor | None, factor: int, filter_name: str) -> tuple[Tensor, Tensor]:
    """tokens: (side * side, width), row by row. coverage: (side * side,) in 0..1, None: all. factor: 1 or more.

    filter_name: one of the contract's DETAIL_FILTERS. Returns fewer tokens and the coverage of each, 0 for what is not
    there.
    """
    if coverage is None:
        coverage = torch.ones(len(tokens))
    if factor == 1:
        return tokens, coverage
    side = grid_side(tokens)
    share = coverage.to(tokens.device)[:, None]
    planes = torch.cat([tokens.float() * share, share], dim=1).T.reshape(1, -1, side, side)
    size = (max(1, side // factor),) * 2
    if filter_name == "area":
        small = interpolate(planes, size, mode="area")
    else:
        small = interpolate(planes, size, mode="bilinear", antialias=True)
    *sums, covered = small[0].flatten(1)
    means = torch.stack(sums, dim=1) / torch.where(covered > 0, covered, 1.0)[:, None]
    return means.to(tokens.dtype), covered.cpu()


def grid_side(tokens: Tensor) -> int:
    """tokens: (side * side, width); Redux tokens lie on a square grid, row by row."""
    return math.isqrt(len(tokens))
