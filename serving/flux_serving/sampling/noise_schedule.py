"""The noise schedule of one request. diffusers' scheduler object is stateful, so requests cannot share it."""

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
    """The noise levels of all steps. Both tensors are float32 on the CPU.

    sigmas: (steps + 1,), decreasing to 0. timesteps: (steps,), 0..1000.
    """

    sigmas: Tensor
    timesteps: Tensor

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def make_schedule(config: Mapping[str, Any], steps: int, image_tokens: int) -> NoiseSchedule:
    """Compute the noise schedule of a request with diffusers' scheduler, so that all of its options apply.

    config: of diffusers' FlowMatchEulerDiscreteScheduler. image_tokens: the more, the larger the shift towards noise.
    Source: diffusers, `FluxPipeline.__call__`, step 5.
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
