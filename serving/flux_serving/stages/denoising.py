"""One denoising step over a batch of jobs, each at its own step, with its own guidance, seed and context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn.functional import pad

from flux_serving.stages.context import Context
from flux_serving.stages.latents import Grid
from flux_serving.stages.noise_schedule import NoiseSchedule


@dataclass(eq=False)
class Denoising:
    """A picture in the making. `latents` and `step` change; the rest is fixed at the start.

    latents: (image tokens, channels). context: without tokens of weight 0, in the transformer's dtype.
    """

    latents: Tensor
    grid: Grid
    context: Context
    guidance: float
    schedule: NoiseSchedule
    step: int = 0


@torch.inference_mode()
def denoise_step(transformer: FluxTransformer2DModel, batch: Sequence[Denoising]) -> None:
    """Take every member of the batch one Euler step further. All must have the same grid.

    Contexts of different length are padded with tokens of weight 0.
    Source: diffusers, `FluxPipeline.__call__`, step 6, and `FlowMatchEulerDiscreteScheduler.step`.
    """
    grid, latents = batch[0].grid, torch.stack([member.latents for member in batch])
    length = max(len(member.context.tokens) for member in batch)
    weights = torch.stack([pad(m.context.weights, (0, length - len(m.context.weights))) for m in batch])
    timesteps = torch.stack([m.schedule.timesteps[m.step] for m in batch]).to(latents)
    guidance = None
    if transformer.config.guidance_embeds:
        guidance = torch.tensor([m.guidance for m in batch], device=latents.device, dtype=torch.float32)
    velocity = transformer(
        hidden_states=latents,
        timestep=timesteps / 1000,
        guidance=guidance,
        pooled_projections=torch.stack([m.context.pooled for m in batch]),
        encoder_hidden_states=torch.stack(
            [pad(m.context.tokens, (0, 0, 0, length - len(m.context.tokens))) for m in batch]
        ),
        txt_ids=latents.new_zeros(length, 3),
        img_ids=grid.position_ids(latents.device, latents.dtype),
        joint_attention_kwargs={"attention_mask": attention_bias(weights, grid.tokens, latents.dtype)},
        return_dict=False,
    )[0]
    for member, direction in zip(batch, velocity, strict=True):
        change = (member.schedule.sigmas[member.step + 1] - member.schedule.sigmas[member.step]).item()
        member.latents = (member.latents.float() + change * direction).to(direction.dtype)
        member.step += 1


def attention_bias(weights: Tensor, image_tokens: int, dtype: torch.dtype) -> Tensor | None:
    """What attention adds to the logits: log(weight) for context tokens, 0 for image tokens; None if all is 0.

    weights: (batch, context tokens). Returns (batch, 1, 1, context + image tokens), -inf where the weight is 0.
    """
    if bool((weights == 1).all()):
        return None
    bias = pad(weights.log(), (0, image_tokens))
    return bias[:, None, None, :].to(dtype)
