"""The noise levels of one job. Each job has its own: a scheduler object shared by jobs would mix up their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """sigmas: (steps + 1,), falling, the last one 0. timesteps: (steps,), 0..1000. Both float32 on the CPU."""

    sigmas: Tensor
    timesteps: Tensor

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def make_schedule(config: Mapping[str, Any], steps: int, image_tokens: int) -> NoiseSchedule:
    """config: of diffusers' FlowMatchEulerDiscreteScheduler; it computes the sigmas, so every option of it counts.

    image_tokens: the shift towards noise grows with them. Source: diffusers, `FluxPipeline.__call__`, step 5.
    """
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    mu = calculate_shift(
        image_tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    if config.get("use_flow_sigmas"):
        scheduler.set_timesteps(steps, mu=mu)
    else:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return NoiseSchedule(scheduler.sigmas, scheduler.timesteps)
