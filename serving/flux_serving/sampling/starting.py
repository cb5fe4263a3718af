"""Where an image-to-image run begins: at which step, with how much noise over the image.

Noise and image mix by the noise schedule's sigma, not by the strength, and the same strength is another sigma at
another size; a start at a sigma is the same change at all of them.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import NUM_INFERENCE_STEPS, START_SIGMA, STRENGTH
from flux_serving.sampling.noise_schedule import NoiseSchedule


def step_of_strength(strength: float, steps: int) -> int:
    """The first step to run, above strength 0, as diffusers counts it.

    Below 1 it is at least the second: at the first one the image would be noise alone, and without effect, which is
    what diffusers gives. Source: diffusers, `FluxImg2ImgPipeline.get_timesteps`.
    Raises InvalidRequest: there is only one step.
    """
    first = min(int(steps - min(steps * strength, steps)), steps - 1)
    if first or strength == 1:
        return first
    if steps == 1:
        raise InvalidRequest(
            f"{STRENGTH.name}={strength:g} with {NUM_INFERENCE_STEPS.name}=1 begins with nothing but noise; "
            f"more steps or {START_SIGMA.name} keep something of the image"
        )
    return 1


def started_at(schedule: NoiseSchedule, sigma: float) -> tuple[NoiseSchedule, int]:
    """The schedule with the step in which this sigma lies beginning at it, and that step. sigma: above 0."""
    first = max(int((schedule.sigmas >= sigma).sum()) - 1, 0)
    if sigma >= float(schedule.sigmas[first]):
        return schedule, first
    sigmas, timesteps = schedule.sigmas.clone(), schedule.timesteps.clone()
    timesteps[first] *= sigma / sigmas[first]
    sigmas[first] = sigma
    return replace(schedule, sigmas=sigmas, timesteps=timesteps), first


def noised(source: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Source: diffusers, `FlowMatchEulerDiscreteScheduler.scale_noise`."""
    sigma = sigma.to(source.dtype)
    return sigma * noise + (1.0 - sigma) * source
