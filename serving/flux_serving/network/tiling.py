"""Runs a VAE over a large image in overlapping tiles with blended seams, to limit memory to a few tiles and the result.

A VAE normalises over the whole image, so tiles normalised separately would differ in colour. Here they share
statistics, which a first pass measures on patches spread over the image. The result is close to an untiled one, not
equal, so tiling is only used for images that are too large otherwise. Source of the shared statistics: Tiled VAE, by
pkuliyi2015.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import interpolate

#: Side of a tile and width of the overlap of two tiles, in latents: 1024 and 256 pixels.
TILE, OVERLAP = 128, 32
#: Number of patches along each side of the image, side of a patch in latents, and width of its margin, which is not
#: counted, in latents.
_PATCHES, _PATCH, _MARGIN = 4, 32, 8


def over_tiles(
    vae: AutoencoderKL,
    run: Callable[[AutoencoderKL, Tensor], Tensor],
    whole: Tensor,
    cell_in: int,
    cell_out: int,
    tile: int = TILE,
) -> Tensor:
    """Run the VAE over an image tile by tile.

    run: encodes or decodes a part of the image, (batch, channels, height, width), with the VAE passed to it.
    whole: (1, channels, height, width), at least 48 latents per side. cell_in, cell_out: values per side of one latent
    in the input and in the output. tile: side of a tile in latents. Returns the whole result in float32.
    """
    twin, norms = _twin(vae)
    _measure(norms, lambda patches: run(twin, patches), whole, cell_in)
    rows, columns = whole.shape[-2] // cell_in, whole.shape[-1] // cell_in
    shares = [_shares(length, tile, cell_out) for length in (rows, columns)]
    result: Tensor | None = None
    for (top, down), (left, across) in product(*(share.items() for share in shares)):
        part = whole[..., top * cell_in : (top + tile) * cell_in, left * cell_in : (left + tile) * cell_in]
        output = run(twin, part).float()
        if result is None:
            result = output.new_zeros(*output.shape[:2], rows * cell_out, columns * cell_out)
        height, width = output.shape[-2:]
        target = result[..., top * cell_out :, left * cell_out :][..., :height, :width]
        target.addcmul_(output, (down[:, None] * across).to(output.device))
    assert result is not None
    return result


def _shares(length: int, tile: int, cell: int) -> dict[int, Tensor]:
    """Returns, by the start of each tile along one side in latents, the blending weights of its pixels along that side.

    The weights rise and fall linearly where tiles overlap, and add up to 1 at each pixel.
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
    """Returns the starts of `count` parts that are spread evenly over a length, from end to end."""
    return [round(i * (length - part) / max(1, count - 1)) for i in range(count)]


class _SharedNorm(nn.Module):
    """A GroupNorm that measures statistics while `counted` is set, and normalises by the last measured ones."""

    def __init__(self, stock: nn.GroupNorm) -> None:
        super().__init__()
        self.stock = stock
        #: (patches, 1, height, width) in latents, 1 where a latent counts and 0 elsewhere; None: do not measure.
        self.counted: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *size = x.shape
        if self.counted is not None:
            # In attention blocks, height and width are flattened into one dimension.
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
    """Returns a VAE that shares the weights but has norms with shared statistics, and these norms."""
    twin = copy.deepcopy(vae, {id(weight): weight for weight in vae.parameters()})
    norms = []
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                norms.append(_SharedNorm(child))
                setattr(module, name, norms[-1])
    return twin, norms


def _measure(norms: list[_SharedNorm], run: Callable[[Tensor], Tensor], whole: Tensor, cell: int) -> None:
    """Measure the norms' statistics on one batch of patches spread over the image.

    The margin around a patch is not counted, because its values are affected by the patch's edges.
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
    """Returns, in latents, where each patch begins and where its counted part begins within the patch.

    At an edge of the image, a patch has no margin on the outer side and a double margin on the inner side.
    """
    last = length - _PATCH - 2 * _MARGIN
    begins = _spread(length, _PATCH, _PATCHES)
    return [(top := min(max(begin - _MARGIN, 0), last), begin - top) for begin in begins]
