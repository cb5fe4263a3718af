"""Runs FLUX Redux's steps for a batch of images with stock diffusers and with this engine, over the same networks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from flux_contract.limits import EMPTY_PROMPT_TOKENS
from flux_contract.tensors import Array
from flux_serving.conditioning.context import ContextPart, assemble, no_text
from flux_serving.conditioning.prompt_encoding import text_parts
from flux_serving.conditioning.span import ALWAYS
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_tools.gpu.networks import weights_of

#: Number of tokens of an image from FLUX.1's SigLIP, and widths of context and pooled projection.
IMAGE_TOKENS, CONTEXT_WIDTH, POOLED_WIDTH = 27 * 27, 4096, 768
GUIDANCE = 2.5


@dataclass(frozen=True)
class TimedSteps:
    """Result of a run. latents: (rows, image tokens, 64) float32, on the CPU. step_seconds: of each step."""

    latents: Tensor
    step_seconds: Sequence[float]


def image_tokens(row: int) -> Tensor:
    """Return random image tokens, (tokens, width), with a scale like Redux's."""
    generator = torch.Generator().manual_seed(row)
    return torch.randn(IMAGE_TOKENS, CONTEXT_WIDTH, generator=generator) / 4


def noise(side: int, rows: int) -> Array:
    """Return noise, (rows, image tokens, 64) float32. A pipeline's own noise would depend on its dtype."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, (side // 16) ** 2, 64, generator=generator).numpy()


def run_stock(pipeline: FluxPipeline, side: int, rows: int, steps: int) -> TimedSteps:
    """Run stock diffusers, with 512 empty text tokens as in FluxPriorReduxPipeline."""
    device, dtype = pipeline.transformer.device, pipeline.transformer.dtype
    tokens = torch.stack([image_tokens(row) for row in range(rows)])
    embeds = torch.cat([tokens.new_zeros(rows, EMPTY_PROMPT_TOKENS, CONTEXT_WIDTH), tokens], 1).to(device, dtype)
    times = [_now(device)]

    def record_time(_: Any, step: int, timestep: Any, named: dict[str, Any]) -> dict[str, Any]:
        times.append(_now(device))
        return named

    latents = pipeline(
        prompt_embeds=embeds,
        pooled_prompt_embeds=embeds.new_zeros(rows, POOLED_WIDTH),
        height=side,
        width=side,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        latents=torch.tensor(noise(side, rows)).to(device, dtype),
        output_type="latent",
        callback_on_step_end=record_time,
    ).images
    return TimedSteps(latents.float().cpu(), _between(times))


class Ours:
    def __init__(self, pipeline: FluxPipeline) -> None:
        self.sampler = Sampler(weights_of(pipeline))

    def run(self, side: int, rows: int, steps: int) -> TimedSteps:
        device = self.sampler.base.device
        works = []
        for row, start in enumerate(noise(side, rows)):
            tokens = image_tokens(row)
            text = no_text(CONTEXT_WIDTH, POOLED_WIDTH, tokens)
            parts = [*text_parts(text, ALWAYS, 1.0), ContextPart(tokens, torch.ones(len(tokens)))]
            parameters = SamplingParameters(side, side, steps, GUIDANCE, (row,), first_step=0, end_step=steps)
            sampler_inputs = SamplerInputs(assemble(parts, text.pooled), initial_latents=start[None])
            works += self.sampler.begin(parameters, sampler_inputs)
        times = [_now(device)]
        for _ in range(steps):
            if any(failure for failure in self.sampler.step(works)):
                raise RuntimeError("the latents are not finite")
            times.append(_now(device))
        return TimedSteps(torch.stack([work.latents for work in works]).float().cpu(), _between(times))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _between(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]
