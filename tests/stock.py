"""Runs stock diffusers on the tiny FLUX, in each mode with the mode's own pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch
from diffusers import (
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
)
from torch import nn

from flux_serving.conditioning.context import Context
from flux_serving.network.latents import Grid, unpack_latents
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from tiny import CONTEXT_WIDTH, POOLED_WIDTH


def of_size(height: int, width: int, steps: int = 10, seed: int = 3, **rest: Any) -> SamplingParameters:
    return SamplingParameters(height, width, steps, 2.0, (seed,), first_step=0, end_step=steps, **rest)


def context(seed: int, count: int = 4) -> Context:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, CONTEXT_WIDTH, generator=generator)
    return Context(tokens, torch.ones(count), torch.randn(POOLED_WIDTH, generator=generator))


def latents(seed: int, parameters: SamplingParameters) -> npt.NDArray[Any]:
    grid = Grid(parameters.height // 2, parameters.width // 2)
    return torch.randn(grid.tokens, 16, generator=torch.Generator().manual_seed(seed)).numpy()


def latent_mask(seed: int, parameters: SamplingParameters, is_soft: bool = False) -> npt.NDArray[Any]:
    """Random values of 0 and 1, or between, for each latent of the tiny FLUX, whose latents are pixels."""
    values = torch.rand(parameters.height, parameters.width, generator=torch.Generator().manual_seed(seed))
    return (values if is_soft else (values < 0.5).float()).numpy()


def embeddings(positive: Context, negative: Context | None = None) -> dict[str, Any]:
    given = {"prompt_embeds": positive.tokens[None], "pooled_prompt_embeds": positive.pooled[None]}
    if negative is not None:
        given["negative_prompt_embeds"] = negative.tokens[None]
        given["negative_pooled_prompt_embeds"] = negative.pooled[None]
    return given


def as_image(packed: npt.NDArray[Any], parameters: SamplingParameters) -> torch.Tensor:
    """Returns latents in the form that a stock pipeline accepts instead of an image."""
    return unpack_latents(torch.tensor(packed)[None], Grid(parameters.height // 2, parameters.width // 2))


def run(pipeline: Any, parameters: SamplingParameters, **arguments: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    final: torch.Tensor = pipeline(
        height=parameters.height,
        width=parameters.width,
        num_inference_steps=parameters.steps,
        guidance_scale=parameters.guidance,
        generator=torch.Generator("cpu").manual_seed(parameters.seeds[0]),
        output_type="latent",
        **arguments,
    ).images[0]
    return final


def stock_img2img(flux: FluxPipeline, parameters: SamplingParameters, sampler_inputs: SamplerInputs) -> torch.Tensor:
    pipeline = FluxImg2ImgPipeline(flux.scheduler, flux.vae, None, None, None, None, flux.transformer)
    assert sampler_inputs.source_latents is not None
    image = as_image(sampler_inputs.source_latents, parameters)
    return run(pipeline, parameters, image=image, strength=parameters.strength, **embeddings(sampler_inputs.context))


def stock_inpaint(flux: FluxPipeline, parameters: SamplingParameters, sampler_inputs: SamplerInputs) -> torch.Tensor:
    """The pipeline scales the mask to the latents by the nearest pixel; here it is given in the latents' size."""
    pipeline = FluxInpaintPipeline(flux.scheduler, flux.vae, None, None, None, None, flux.transformer)
    assert sampler_inputs.source_latents is not None
    assert sampler_inputs.source_mask is not None
    image = as_image(sampler_inputs.source_latents, parameters)
    mask = torch.tensor(sampler_inputs.source_mask)[None, None].expand(1, 4, -1, -1)
    packed = pipeline._pack_latents(mask, 1, 4, *mask.shape[2:])
    pipeline.prepare_mask_latents = lambda *_: (packed, None)
    return run(
        pipeline,
        parameters,
        image=image,
        mask_image=torch.ones(1, 1, parameters.height, parameters.width),
        masked_image_latents=image,
        strength=parameters.strength,
        true_cfg_scale=parameters.true_cfg_scale,
        **embeddings(sampler_inputs.context, sampler_inputs.negative),
    )


def stock_cfg(flux: FluxPipeline, parameters: SamplingParameters, sampler_inputs: SamplerInputs) -> torch.Tensor:
    given = embeddings(sampler_inputs.context, sampler_inputs.negative)
    return run(flux, parameters, true_cfg_scale=parameters.true_cfg_scale, **given)


def stock_control(
    flux: FluxPipeline, controlnet: FluxControlNetModel, parameters: SamplingParameters, sampler_inputs: SamplerInputs
) -> torch.Tensor:
    """Run the ControlNet pipeline. It would encode its image with random sampling, so this passes latents instead."""
    pipeline = FluxControlNetPipeline(flux.scheduler, flux.vae, None, None, None, None, flux.transformer, controlnet)
    packed = torch.tensor(sampler_inputs.control_latents)[None]

    def replace_control(_: Any, arguments: Any, named: dict[str, Any]) -> Any:
        return arguments, named | {"controlnet_cond": packed}

    with deterministic(flux.vae), controlnet.register_forward_pre_hook(replace_control, with_kwargs=True):
        return run(
            pipeline,
            parameters,
            control_image=torch.zeros(1, 3, parameters.height, parameters.width),
            latents=None,
            controlnet_conditioning_scale=parameters.control_scale,
            control_guidance_start=parameters.control_span.start,
            control_guidance_end=parameters.control_span.end,
            true_cfg_scale=parameters.true_cfg_scale,
            **embeddings(sampler_inputs.context, sampler_inputs.negative),
        )


class _Mode:
    """A VAE output whose sample is its mode and does not use the pipeline's generator."""

    def __init__(self, posterior: Any) -> None:
        self.latent_dist = self
        self._mode: torch.Tensor = posterior.latent_dist.mode()

    def sample(self, generator: object) -> torch.Tensor:
        return self._mode


@contextmanager
def deterministic(vae: Any) -> Iterator[None]:
    """Within this context, the VAE returns the mode of its distribution instead of a random sample."""
    encode = vae.encode
    vae.encode = lambda pixels: _Mode(encode(pixels))
    try:
        yield
    finally:
        vae.encode = encode


def stock_latents(flux: FluxPipeline, wanted: SamplingParameters, context: Context) -> torch.Tensor:
    """Returns the final latents of stock diffusers, with the tokens that apply at each step.

    Tokens of a weight above 1 are repeated. At step i of n, a token applies if start <= i / n < end.
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
        return run(flux, wanted, **embeddings(context))
