"""FLUX.1-dev's networks, as wide as they are, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn

from flux_serving.weights import BaseWeights

#: Of black-forest-labs/FLUX.1-dev: double and single blocks, heads of 128.
DOUBLE, SINGLE, HEADS = 19, 38, 24
_STD = 0.02


def make_pipeline(
    device: torch.device, dtype: torch.dtype, double: int = DOUBLE, single: int = SINGLE, heads: int = HEADS
) -> FluxPipeline:
    """Stock, without text encoders. Fewer blocks make it shallower, fewer heads narrower."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=double,
            num_single_layers=single,
            num_attention_heads=heads,
            attention_head_dim=128,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            sample_size=1024,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    networks = (_filled(network, device, dtype) for network in (vae, transformer))
    vae, transformer = networks
    pipeline = FluxPipeline(scheduler, vae, None, None, None, None, transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def weights_of(pipeline: FluxPipeline) -> BaseWeights:
    """The same networks, as our stages see them."""
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
    """Norms scale by 1, all else is drawn on the device: 12 billion numbers take a CPU minutes."""
    network = network.to(dtype).to_empty(device=device)
    # Drawn in float32 whatever the dtype, for the same numbers.
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
