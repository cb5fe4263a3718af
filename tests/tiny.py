"""A tiny FLUX with random weights for unit tests: as stock diffusers, and as the stages see it."""

from __future__ import annotations

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
from torch import Tensor, nn

from flux_serving.stages.context import Context
from flux_serving.stages.sampling_parameters import SamplingParameters
from flux_serving.weights import BaseWeights

CONTEXT_WIDTH, POOLED_WIDTH = 24, 8


def make_tiny_flux() -> FluxPipeline:
    """Two kinds of blocks, guidance, and weights so large that every input matters."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=CONTEXT_WIDTH,
            pooled_projection_dim=POOLED_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
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
    """Fewer blocks than the transformer has, so that two of these share a residual; none of them near zero."""
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = FluxControlNetModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=CONTEXT_WIDTH,
            pooled_projection_dim=POOLED_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=[4, 6, 6],
        )
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def weights_of(flux: FluxPipeline, controlnet: FluxControlNetModel | None = None) -> BaseWeights:
    """As the stages see it."""
    return BaseWeights(
        name="tiny",
        transformer=flux.transformer,
        vae=flux.vae,
        image_processor=flux.image_processor,
        scheduler_config=dict(flux.scheduler.config),
        vae_scale_factor=flux.vae_scale_factor,
        native_side=32,
        default_steps=50,
        controlnet=controlnet,
    )


def stock_latents(flux: FluxPipeline, wanted: SamplingParameters, context: Context) -> Tensor:
    """Final latents of stock diffusers, which at each step reads the tokens that are there then.

    Tokens of a weight above 1 are repeated. At step i of n a token is there where start <= i / n < end.
    """
    step = iter(range(wanted.steps))

    def read(transformer: nn.Module, arguments: tuple[()], named: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        now = next(step) / wanted.steps
        start, end = context.all_spans.unbind(1)
        counts = torch.where((start <= now) & (now < end), context.weights, 0.0).long()
        tokens = context.tokens.repeat_interleave(counts, dim=0)
        is_pooled = context.pooled_span.start <= now < context.pooled_span.end
        return arguments, named | {
            "encoder_hidden_states": tokens[None],
            "txt_ids": torch.zeros(len(tokens), 3),
            "pooled_projections": context.pooled[None] if is_pooled else torch.zeros_like(context.pooled)[None],
        }

    with flux.transformer.register_forward_pre_hook(read, with_kwargs=True):
        latents: Tensor = flux(
            prompt_embeds=context.tokens[None],
            pooled_prompt_embeds=context.pooled[None],
            height=wanted.height,
            width=wanted.width,
            num_inference_steps=wanted.steps,
            guidance_scale=wanted.guidance,
            generator=torch.Generator("cpu").manual_seed(wanted.seeds[0]),
            output_type="latent",
        ).images[0]
    return latents
