"""The start of an image-to-image run: the first step, and the amount of noise added to the image.

The schedule's sigma determines the mix of noise and image. The same strength means different sigmas for different image
sizes, whereas the same start sigma changes images of all sizes equally.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import NUM_INFERENCE_STEPS, START_SIGMA, STRENGTH
from flux_serving.sampling.noise_schedule import NoiseSchedule


def step_of_strength(strength: float, steps: int) -> int:
    """Returns the first step to run for a strength above 0, as diffusers computes it.

    Unlike in diffusers, a strength below 1 starts at the second step or later: the first step starts from pure noise,
    so the image would have no effect. Source: diffusers, `FluxImg2ImgPipeline.get_timesteps`.
    Raises InvalidRequest: the strength is below 1, but there is only one step.
    """
    first = min(int(steps - min(steps * strength, steps)), steps - 1)
    if first or strength == 1:
        return first
    if steps == 1:
        raise InvalidRequest(
            f"{STRENGTH.name}={strength:g} with {NUM_INFERENCE_STEPS.name}=1 starts from pure noise; increase "
            f"{NUM_INFERENCE_STEPS.name} or use {START_SIGMA.name} to keep some of the image"
        )
    return 1


def started_at(schedule: NoiseSchedule, sigma: float) -> tuple[NoiseSchedule, int]:
    """Returns a schedule that starts at this sigma, and its first step. sigma: above 0.

    The step in whose range the sigma lies is shortened to begin at it.
    """
    first = max(int((schedule.sigmas >= sigma).sum()) - 1, 0)
    if sigma >= float(schedule.sigmas[first]):
        return schedule, first
    sigmas, timesteps = schedule.sigmas.clone(), schedule.timesteps.clone()
    timesteps[first] *= sigma / sigmas[first]
    sigmas[first] = sigma
    return replace(schedule, sigmas=sigmas, timesteps=timesteps), first


def noised(source: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Mix image and noise. Source: diffusers, `FlowMatchEulerDiscreteScheduler.scale_noise`."""
    sigma = sigma.to(source.dtype)
    return sigma * noise + (1.0 - sigma) * source
