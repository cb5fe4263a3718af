"""Decodes latents to pixels."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from flux_contract.limits import TILED_BEYOND_PIXELS
from flux_contract.tensors import Array
from flux_serving.network.cpu_threads import cpu_threads
from flux_serving.network.latents import Grid, unpack_latents
from flux_serving.network.tiling import TILE, over_tiles
from flux_serving.network.weights import BaseWeights

#: Number of pixels from which more than one CPU thread is faster.
MANY_THREADS_FROM_PIXELS = 192 * 192


@torch.inference_mode()
def decode_latents(base: BaseWeights, packed: Tensor, grid: Grid) -> Array:
    """Decode packed latents to pixels. Large images are decoded in tiles.

    packed: (batch, tokens, channels). Returns (batch, height, width, 3) uint8, rounded as diffusers rounds.
    Source: diffusers, `FluxPipeline.__call__`, after the loop, and `VaeImageProcessor.numpy_to_pil`.
    """
    pixels_each = grid.tokens * base.token_side**2
    latents = unpack_latents(packed, grid)
    latents = latents / base.vae.config.scaling_factor + base.vae.config.shift_factor
    with cpu_threads(base.device, is_small=len(packed) * pixels_each < MANY_THREADS_FROM_PIXELS):
        if pixels_each > TILED_BEYOND_PIXELS:
            return np.concatenate([decode_tiled(base, one[None]) for one in latents])
        return _as_pixels(base, _decoded(base.vae, latents))


@torch.inference_mode()
def decode_tiled(base: BaseWeights, latents: Tensor, tile: int = TILE) -> Array:
    """Decode one image in tiles.

    latents: (1, channels, height, width), as the VAE expects them. tile: side of a tile in latents.
    """
    return _as_pixels(base, over_tiles(base.vae, _decoded, latents, 1, base.vae_scale_factor, tile))


def _decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    decoded: Tensor = vae.decode(latents, return_dict=False)[0]
    return decoded


def _as_pixels(base: BaseWeights, decoded: Tensor) -> Array:
    pixels: Array = base.image_processor.postprocess(decoded, output_type="np")
    return (pixels * 255).round().astype(np.uint8)
