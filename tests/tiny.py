"""A tiny FLUX with random weights for unit tests, as a stock diffusers pipeline and as the server's weights."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
)

from flux_serving.network.weights import BaseWeights

CONTEXT_WIDTH, POOLED_WIDTH = 24, 8

#: The smallest FLUX with two blocks of each kind. Other tiny networks only list their differences from it.
TINY: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": CONTEXT_WIDTH,
    "pooled_projection_dim": POOLED_WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}


def device() -> torch.device:
    """The device of our engine, set with `pytest --device`. The stock diffusers reference stays on the CPU."""
    return torch.device(os.environ["FLUX_TEST_DEVICE"])


def make_tiny_flux() -> FluxPipeline:
    """Create a FLUX with both kinds of blocks, guidance, and weights large enough that every input matters."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer = FluxTransformer2DModel(**TINY)
        vae = AutoencoderKL(
            latent_channels=4, norm_num_groups=4, block_out_channels=(8,), sample_size=32, shift_factor=0.1
        )
    for name, parameter in transformer.named_parameters():
        if ".norm" in name and parameter.ndim == 1:
            parameter.data += 0.5 * torch.randn_like(parameter)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    pipeline = FluxPipeline(scheduler, vae.eval(), None, None, None, None, transformer.eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_tiny_controlnet() -> FluxControlNetModel:
    """Create a ControlNet with fewer blocks than the transformer, whose blocks share residuals. No weight is near 0."""
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = FluxControlNetModel(**TINY | {"num_layers": 1, "num_single_layers": 1})
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def weights_of(flux: FluxPipeline, controlnet: FluxControlNetModel | None = None) -> BaseWeights:
    """Returns the weights as the server uses them: these networks, or copies on a GPU."""
    transformer, vae = flux.transformer, flux.vae
    if device().type != "cpu":
        transformer, vae = copy.deepcopy(transformer).to(device()), copy.deepcopy(vae).to(device())
        controlnet = controlnet and copy.deepcopy(controlnet).to(device())
    return BaseWeights(
        name="tiny",
        transformer=transformer,
        vae=vae,
        image_processor=flux.image_processor,
        scheduler_config=dict(flux.scheduler.config),
        vae_scale_factor=flux.vae_scale_factor,
        native_side=32,
        default_steps=50,
        controlnet=controlnet,
    )
