"""FLUX.1-dev's networks in their real dimensions, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import nn

from flux_serving.network.weights import BaseWeights
from flux_tools.bench import flux_dev

#: Standard deviation of the weights.
_STD = 0.02


def make_pipeline(device: torch.device, dtype: torch.dtype, **changed: int) -> FluxPipeline:
    """Return a stock pipeline without text encoders. changed: as for `flux_dev.transformer`, e.g. fewer blocks."""
    transformer, vae = (_filled(each, device, dtype) for each in (flux_dev.transformer(**changed), flux_dev.vae()))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    pipeline = FluxPipeline(scheduler, vae, None, None, None, None, transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def weights_of(pipeline: FluxPipeline) -> BaseWeights:
    """Return the networks of the pipeline as weights of this engine."""
    return BaseWeights(
        name="FLUX.1-dev with random weights",
        transformer=pipeline.transformer,
        vae=pipeline.vae,
        image_processor=pipeline.image_processor,
        scheduler_config=dict(pipeline.scheduler.config),
        vae_scale_factor=pipeline.vae_scale_factor,
        native_side=1024,
        default_steps=50,
    )


def _filled(network: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Fill the network with random weights, except for the scales of norms, which are 1.

    The weights are drawn on the device, because a CPU would take minutes for 12 billion numbers.
    """
    network = network.to(dtype).to_empty(device=device)
    # Always drawn in float32, so that every dtype has the same weights.
    generator = torch.Generator(device).manual_seed(0)
    for module in network.modules():
        is_norm = isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)) or type(module).__name__ == "RMSNorm"
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if is_norm and name == "weight":
                    parameter.fill_(1)
                else:
                    drawn = torch.randn(parameter.shape, device=device, generator=generator)
                    parameter.copy_(_STD * drawn)
    return network.eval().requires_grad_(False)
