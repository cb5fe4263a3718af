"""A VAE over a large image in overlapping tiles with blended seams; memory is that of some tiles and the result.

A VAE normalises over the whole image, so tiles that each normalised for themselves would differ in colour. Here they
share statistics, which a first pass takes from patches spread over the image. This is close, not exact: so it is for
images that are too large for anything else. Source of the idea of shared statistics: Tiled VAE, by pkuliyi2015.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import interpolate

#: Latents of a tile's side, and of the overlap of two: tiles of 1024 pixels that share 256.
TILE, OVERLAP = 128, 32
#: Patches along each side of the image, latents of a patch's side, and of the margin around it that is not counted.
_PATCHES, _PATCH, _MARGIN = 4, 32, 8


def over_tiles(
    vae: AutoencoderKL,
    run: Callable[[AutoencoderKL, Tensor], Tensor],
    whole: Tensor,
    cell_in: int,
    cell_out: int,
    tile: int = TILE,
) -> Tensor:
    """run: encodes or decodes (batch, channels, height, width), some part of the image, with the VAE given to it.

    whole: (1, channels, height, width), at least 48 latents a side. cell_in, cell_out: pixels of a latent's side in
    what goes in and comes out. tile: latents of a tile's side. Returns float32.
    """
    twin, norms = _twin(vae)
    _measure(norms, lambda patches: run(twin, patches), whole, cell_in)
    rows, columns = whole.shape[-2] // cell_in, whole.shape[-1] // cell_in
    shares = [_shares(length, tile, cell_out) for length in (rows, columns)]
    result: Tensor | None = None
    for (top, down), (left, across) in product(*(share.items() for share in shares)):
        part = whole[..., top * cell_in : (top + tile) * cell_in, left * cell_in : (left + tile) * cell_in]
        made = run(twin, part).float()
        if result is None:
            result = made.new_zeros(*made.shape[:2], rows * cell_out, columns * cell_out)
        height, width = made.shape[-2:]
        target = result[..., top * cell_out :, left * cell_out :][..., :height, :width]
        target.addcmul_(made, (down[:, None] * across).to(made.device))
    assert result is not None
    return result


def _shares(length: int, tile: int, cell: int) -> dict[int, Tensor]:
    """Where each tile begins, in latents, and what share of each of its pixels along this side is its own.

    Shares rise and fall linearly where tiles overlap, and add up to 1.
    """
    tile = min(tile, length)
    overlap = min(OVERLAP, tile // 2)
    starts = _spread(length, tile, 1 + -(-(length - tile) // (tile - overlap)))
    rising = (torch.arange(overlap * cell) + 0.5) / (overlap * cell)
    total = torch.zeros(length * cell)
    heights = {}
    for start in starts:
        height = torch.ones(tile * cell)
        if start > 0:
            height[: len(rising)] *= rising
        if start + tile < length:
            height[len(height) - len(rising) :] *= rising.flip(0)
        total[start * cell :][: tile * cell] += height
        heights[start] = height
    return {start: height / total[start * cell :][: tile * cell] for start, height in heights.items()}


def _spread(length: int, part: int, count: int) -> list[int]:
    """Where so many parts of a length begin, evenly from end to end."""
    return [round(i * (length - part) / max(1, count - 1)) for i in range(count)]


class _SharedNorm(nn.Module):
    """A GroupNorm that keeps the statistics of what it saw while `counted` was set, and normalises by them."""

    def __init__(self, stock: nn.GroupNorm) -> None:
        super().__init__()
        self.stock = stock
        #: (patches, 1, height, width) in latents, 1 where a patch is counted; None: nothing is measured.
        self.counted: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *size = x.shape
        if self.counted is not None:
            # Attention has its latents in a row.
            groups = x.reshape(batch, self.stock.num_groups, channels // self.stock.num_groups, -1)
            share = interpolate(self.counted, size) if len(size) == 2 else self.counted
            share = share.view(batch, 1, 1, -1)
            share = share / (share.sum() * groups.shape[2])
            mean = (groups * share).sum((0, 2, 3), dtype=torch.float32)[:, None]
            variance = ((groups - mean[..., None]).square() * share).sum((0, 2, 3), dtype=torch.float32)[:, None]
            weight, bias = (each.view(len(mean), -1) for each in (self.stock.weight, self.stock.bias))
            scale = weight * (variance + self.stock.eps).rsqrt()
            self._scale, self._shift = (each.flatten().to(x.dtype) for each in (scale, bias - mean * scale))
        of_channel = (-1, *(1 for _ in size))
        return torch.addcmul(self._shift.view(of_channel), x, self._scale.view(of_channel))


def _twin(vae: AutoencoderKL) -> tuple[AutoencoderKL, list[_SharedNorm]]:
    """A VAE of the same weights, which memory holds once, whose norms share their statistics."""
    twin = copy.deepcopy(vae, {id(weight): weight for weight in vae.parameters()})
    norms = []
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                norms.append(_SharedNorm(child))
                setattr(module, name, norms[-1])
    return twin, norms


def _measure(norms: list[_SharedNorm], run: Callable[[Tensor], Tensor], whole: Tensor, cell: int) -> None:
    """Run patches from all over the image together, so that each norm sees statistics of all of it.

    A margin around a patch is not counted, because it sees the patch's end as the image's.
    """
    places = [_places(length // cell) for length in whole.shape[-2:]]
    side = (_PATCH + 2 * _MARGIN) * cell
    counted = whole.new_zeros(len(places[0]) * len(places[1]), 1, side // cell, side // cell)
    patches = []
    for index, ((top, first_row), (left, first_column)) in enumerate(product(*places)):
        patches.append(whole[..., top * cell :, left * cell :][..., :side, :side])
        counted[index, :, first_row : first_row + _PATCH, first_column : first_column + _PATCH] = 1
    for norm in norms:
        norm.counted = counted
    run(torch.cat(patches))
    for norm in norms:
        norm.counted = None


def _places(length: int) -> list[tuple[int, int]]:
    """Where each patch begins, in latents, and what of it is counted: at the image's ends the margin is inside."""
    last = length - _PATCH - 2 * _MARGIN
    begins = _spread(length, _PATCH, _PATCHES)
    return [(top := min(max(begin - _MARGIN, 0), last), begin - top) for begin in begins]
