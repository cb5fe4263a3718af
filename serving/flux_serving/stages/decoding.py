"""Latents to pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flux_serving.contract.tensors import Array
from flux_serving.stages.cpu_threads import cpu_threads
from flux_serving.stages.latents import Grid, unpack_latents
from flux_serving.weights import BaseWeights

#: Pixels from which on more than one thread of a CPU is worth it.
MANY_THREADS_FROM_PIXELS = 192 * 192


@torch.inference_mode()
def decode_latents(base: BaseWeights, packed: Tensor, grid: Grid) -> Array:
    """packed: (batch, tokens, channels). Returns (batch, height, width, 3) uint8, rounded as diffusers rounds.

    Source: diffusers, `FluxPipeline.__call__`, after the loop, and `VaeImageProcessor.numpy_to_pil`.
    """
    pixels_wanted = len(packed) * grid.tokens * base.token_side**2
    latents = unpack_latents(packed, grid)
    latents = latents / base.vae.config.scaling_factor + base.vae.config.shift_factor
    with cpu_threads(base.device, is_small=pixels_wanted < MANY_THREADS_FROM_PIXELS):
        decoded = base.vae.decode(latents, return_dict=False)[0]
    pixels: Array = base.image_processor.postprocess(decoded, output_type="np")
    return (pixels * 255).round().astype(np.uint8)
