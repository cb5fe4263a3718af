"""Previews: what an unfinished image will look like, from its latents, without decoding them.

A preview only reads latents. How it travels to the client is the backend's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from flux_contract.parameters import PREVIEW_METHOD, PREVIEW_STEPS
from flux_contract.tensors import Array
from flux_serving.network.decoding import decode_latents
from flux_serving.network.latents import Grid, unpack_latents
from flux_serving.network.weights import BaseWeights

#: Synthetic images that the colours are fitted to, and pixels of their side.
_IMAGES, _SIDE = 48, 64
#: Of the normal equations, relative to the latents' variance: keeps them solvable where channels depend on each other.
_RIDGE = 1e-4


@dataclass(frozen=True)
class PreviewOptions:
    """every: steps between previews; 0: none."""

    method: Annotated[str, PREVIEW_METHOD]
    every: Annotated[int, PREVIEW_STEPS]


class Previewer:
    """Latents to small images, by each of the contract's PREVIEW_METHODS.

    `latent2rgb` is a linear map from a latent's channels to a colour, fitted to the checkpoint's own VAE, so that it
    fits every checkpoint: least squares over synthetic images drawn from a fixed seed. On images that it never saw
    it is 19 of 255 levels off on average, with the demo checkpoint, where one colour for all would be 53 off.
    The idea of such a map: ComfyUI's latent previews.
    """

    def __init__(self, base: BaseWeights) -> None:
        """Encodes the synthetic images: half a second for the demo's VAE on two CPU cores."""
        self._base = base
        self._methods = {"latent2rgb": self.latent2rgb, "vae": self.vae}
        images = synthetic_images(_IMAGES, _SIDE, seed=0)
        latents = encode(base, images)
        height, width = latents.shape[-2:]
        # (samples, channels), in float64 on the CPU: the same map on every device.
        x = latents.movedim(1, -1).flatten(0, 2).double().cpu()
        y = adaptive_avg_pool2d(images, (height, width)).movedim(1, -1).flatten(0, 2).double()
        centred = x - x.mean(0)
        covariance = centred.mT @ centred
        covariance += _RIDGE * covariance.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype)
        matrix = torch.linalg.solve(covariance, centred.mT @ (y - y.mean(0)))
        self._matrix = matrix.float().to(base.device)
        self._bias = (y.mean(0) - x.mean(0) @ matrix).float().to(base.device)

    def preview(self, method: str, packed: Tensor, grid: Grid, longest: int) -> Array:
        """method: one of PREVIEW_METHODS. packed: (tokens, channels). longest: pixels of a side at most.

        Returns (height, width, 3) uint8.
        """
        return shrunk(self._methods[method](packed, grid), longest)

    @torch.inference_mode()
    def latent2rgb(self, packed: Tensor, grid: Grid) -> Array:
        """One pixel for each latent: (2 * rows, 2 * columns, 3). Latents that are not finite are black."""
        latents = unpack_latents(packed[None].float(), grid)[0].movedim(0, -1)
        colours = latents @ self._matrix + self._bias
        rgb: Array = (colours.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return rgb

    def vae(self, packed: Tensor, grid: Grid) -> Array:
        """The whole image, (height, width, 3), at the cost of decoding it."""
        rgb: Array = decode_latents(self._base, packed[None].to(self._base.dtype), grid)[0]
        return rgb


def shrunk(rgb: Array, longest: int) -> Array:
    """rgb: (height, width, 3) uint8. The same, averaged over squares until no side is longer than `longest` pixels."""
    factor = -(-max(rgb.shape[:2]) // longest)
    if factor == 1:
        return rgb
    averaged = avg_pool2d(torch.from_numpy(rgb).movedim(-1, 0).float(), factor, ceil_mode=True)
    small: Array = averaged.round().to(torch.uint8).movedim(0, -1).contiguous().numpy()
    return small


def synthetic_images(count: int, side: int, seed: int) -> Tensor:
    """(count, 3, side, side), 0..1: boxes and ellipses, on white or on a ground whose colour changes slowly.

    A map that was fitted to patches of noise instead is 28 levels off where that of the shapes is 19.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side),) * 2, indexing="ij")

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def shaded(slope: float) -> Tensor:
        """A colour and its change over the image; as often pure as pale."""
        colour = ((random(3, 1, 1) - 0.5) * 2 + 0.5).clamp(0, 1)
        across, down = slope * (random(2, 3, 1, 1) - 0.5)
        area: Tensor = (colour + across * columns + down * rows).clamp(0, 1)
        return area

    images = []
    for index in range(count):
        image = shaded(0.5) if index % 2 else torch.ones(3, side, side)
        for shape in range(6):
            centre, radius = random(2), 0.05 + 0.4 * random(2)
            y, x = (rows - centre[0]).abs() / radius[0], (columns - centre[1]).abs() / radius[1]
            inside = torch.maximum(y, x) < 1 if shape % 2 else y**2 + x**2 < 1
            image = torch.where(inside, shaded(0.5), image)
        images.append(image)
    return torch.stack(images)


@torch.inference_mode()
def encode(base: BaseWeights, images: Tensor) -> Tensor:
    """images: (batch, 3, height, width), 0..1. Returns VAE-scaled latents, (batch, channels, height/8, width/8)."""
    vae = base.vae
    encoded: Tensor = vae.encode((2 * images - 1).to(vae.device, vae.dtype)).latent_dist.mode()
    scaled: Tensor = (encoded.float() - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled
