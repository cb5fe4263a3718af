"""A request's pictures from noise to pixels: begin, step, result. This is what the engine drives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flux_serving.contract.tensors import Array
from flux_serving.errors import InvalidRequest
from flux_serving.stages.context import Context
from flux_serving.stages.decoding import decode_latents
from flux_serving.stages.denoising import Denoising, denoise_step
from flux_serving.stages.latents import Grid, initial_noise
from flux_serving.stages.noise_schedule import make_schedule
from flux_serving.stages.sampling_parameters import SamplingParameters
from flux_serving.weights import BaseWeights


@dataclass(frozen=True)
class Picture:
    """rgb: (height, width, 3) uint8. latents: the packed latents it was decoded from, (tokens, channels) float32."""

    rgb: Array
    latents: Array


class Sampler:
    """The base checkpoint at work."""

    def __init__(self, base: BaseWeights) -> None:
        self.base = base

    def begin(self, parameters: SamplingParameters, context: Context) -> list[Denoising]:
        """One piece of work for each seed. context: float32, on the CPU.

        Raises InvalidRequest: the context doesn't fit the checkpoint.
        """
        base = self.base
        config = base.transformer.config
        _check_context(context, config.joint_attention_dim, config.pooled_projection_dim)
        present = context.without_absent()
        context = Context(
            tokens=present.tokens.to(base.device, base.dtype),
            weights=present.weights.to(base.device),
            pooled=present.pooled.to(base.device, base.dtype),
        )
        grid = Grid(parameters.height // base.token_side, parameters.width // base.token_side)
        schedule = make_schedule(base.scheduler_config, parameters.steps, grid.tokens)
        return [
            Denoising(
                latents=initial_noise(seed, grid, config.in_channels // 4, base.device, base.dtype),
                grid=grid,
                context=context,
                guidance=parameters.guidance,
                schedule=schedule,
            )
            for seed in parameters.seeds
        ]

    def step(self, batch: Sequence[Denoising]) -> None:
        denoise_step(self.base.transformer, batch)

    def result(self, work: Denoising) -> Picture:
        return Picture(
            rgb=decode_latents(self.base, work.latents, work.grid),
            latents=work.latents.float().cpu().numpy(),
        )

    def recipes(self, parameters: SamplingParameters) -> list[str]:
        """How each picture is made, as JSON."""
        has_guidance = self.base.transformer.config.guidance_embeds
        return [
            json.dumps(
                {
                    "model": self.base.name,
                    "seed": seed,
                    "steps": parameters.steps,
                    "guidance": round(parameters.guidance, 6) if has_guidance else None,
                    "width": parameters.width,
                    "height": parameters.height,
                }
            )
            for seed in parameters.seeds
        ]


def _check_context(context: Context, width: int, pooled_width: int) -> None:
    if context.tokens.shape[1] != width:
        raise InvalidRequest(f"CONTEXT has tokens of width {context.tokens.shape[1]}, expected {width}")
    if len(context.tokens) != len(context.weights):
        raise InvalidRequest(f"CONTEXT has {len(context.tokens)} tokens, CONTEXT_WEIGHTS {len(context.weights)} values")
    if len(context.pooled) != pooled_width:
        raise InvalidRequest(f"POOLED_PROJECTION has {len(context.pooled)} values, expected {pooled_width}")
    if not bool((context.weights > 0).any()):
        raise InvalidRequest("CONTEXT_WEIGHTS are all 0, at least one token must be there")
    if not bool(torch.isfinite(context.tokens).all() and torch.isfinite(context.pooled).all()):
        raise InvalidRequest("CONTEXT and POOLED_PROJECTION must be finite")
