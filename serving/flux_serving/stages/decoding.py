"""Latents to pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flux_serving.contract.tensors import Array
from flux_serving.stages.latents import Grid, unpack_latents
from flux_serving.weights import BaseWeights


@torch.inference_mode()
def decode_latents(base: BaseWeights, packed: Tensor, grid: Grid) -> Array:
    """packed: (batch, tokens, channels). Returns (batch, height, width, 3) uint8, rounded as diffusers rounds.

    Source: diffusers, `FluxPipeline.__call__`, after the loop, and `VaeImageProcessor.numpy_to_pil`.
    """
    latents = unpack_latents(packed, grid)
    latents = latents / base.vae.config.scaling_factor + base.vae.config.shift_factor
    decoded = base.vae.decode(latents, return_dict=False)[0]
    pixels: Array = base.image_processor.postprocess(decoded, output_type="np")
    return (pixels * 255).round().astype(np.uint8)
