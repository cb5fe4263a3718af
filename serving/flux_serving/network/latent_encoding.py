"""Encodes pixels to latents. Uses the mode of the VAE's distribution, so equal images have equal latents."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from flux_contract.limits import TILED_BEYOND_PIXELS
from flux_contract.tensors import Array
from flux_serving.network.cpu_threads import cpu_threads
from flux_serving.network.decoding import MANY_THREADS_FROM_PIXELS
from flux_serving.network.latents import pack_latents
from flux_serving.network.tiling import TILE, over_tiles


@torch.inference_mode()
def encode_pixels(vae: AutoencoderKL, rgb: Array) -> Tensor:
    """Encode an image. Large images are encoded in tiles.

    rgb: (height, width, 3) uint8. Returns packed, VAE-scaled latents, (image tokens, channels), float32 on the CPU.
    Source: diffusers, `VaeImageProcessor.preprocess` and `FluxImg2ImgPipeline._encode_vae_image`.
    """
    size = rgb.shape[0] * rgb.shape[1]
    pixels = (torch.tensor(rgb).movedim(-1, 0)[None].float() / 255 * 2 - 1).to(vae.device, vae.dtype)
    with cpu_threads(vae.device, is_small=size < MANY_THREADS_FROM_PIXELS):
        latents = encode_tiled(vae, pixels) if size > TILED_BEYOND_PIXELS else _mode(vae, pixels)
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return pack_latents(scaled)[0].float().cpu()


@torch.inference_mode()
def encode_tiled(vae: AutoencoderKL, pixels: Tensor, tile: int = TILE) -> Tensor:
    """Encode one image in tiles.

    pixels: (1, 3, height, width), -1..1. tile: side of a tile in latents. Returns latents as the VAE returns them.
    """
    cell = 2 ** (len(vae.config.block_out_channels) - 1)
    return over_tiles(vae, _mode, pixels, cell, 1, tile)


def _mode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    mode: Tensor = vae.encode(pixels).latent_dist.mode()
    return mode
