"""The parsed parameters of a request for the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import CONTROL_SCALE, END_STEP, GUIDANCE_SCALE, TRUE_CFG_SCALE
from flux_serving.conditioning.span import ALWAYS, Span
from flux_serving.sampling.noise_schedule import NoiseSchedule
from flux_serving.sampling.starting import started_at, step_of_strength


@dataclass(frozen=True)
class Lora:
    """The name and scale of an adapter."""

    name: str
    scale: float


@dataclass(frozen=True)
class SamplingParameters:
    """The parameters of a request for the sampler.

    height, width: in pixels. seeds: one for each requested image. steps: length of the whole schedule, of which the
    steps from first_step up to, but not including, end_step run. strength, start_sigma: at most one of them is set,
    and only if there is a source image.
    """

    height: int
    width: int
    steps: int
    guidance: Annotated[float, GUIDANCE_SCALE]
    seeds: tuple[int, ...]
    first_step: int
    end_step: int
    true_cfg_scale: Annotated[float, TRUE_CFG_SCALE] = 1.0
    strength: float | None = None
    start_sigma: float | None = None
    control_scale: Annotated[float, CONTROL_SCALE] = 1.0
    control_span: Span = ALWAYS
    loras: tuple[Lora, ...] = ()

    @property
    def is_unchanged(self) -> bool:
        """Whether the source image is returned unchanged."""
        return 0 in (self.strength, self.start_sigma)

    @property
    def steps_to_run(self) -> int:
        """Number of steps to run. With a start sigma, it is an upper bound."""
        first = self.first_step if self.strength is None else step_of_strength(self.strength, self.steps)
        return self.end_step - first

    def begin(self, schedule: NoiseSchedule) -> tuple[NoiseSchedule, int]:
        """Returns the schedule to run and the first step.

        Raises InvalidRequest: the first step is not before end_step.
        """
        first = self.first_step
        if self.strength is not None:
            first = step_of_strength(self.strength, self.steps)
        elif self.start_sigma is not None:
            schedule, first = started_at(schedule, self.start_sigma)
        if first >= self.end_step:
            raise InvalidRequest(f"{END_STEP.name}={self.end_step}, expected more than {first}, the first step to run")
        return schedule, first

    def as_recipe(self, has_guidance: bool) -> dict[str, Any]:
        """Returns the parameters for an image's metadata, without defaults.

        has_guidance: whether the checkpoint uses the guidance scale.
        """
        recipe: dict[str, Any] = {
            "steps": self.steps,
            "guidance": round(self.guidance, 6) if has_guidance else None,
            "width": self.width,
            "height": self.height,
        }
        if self.true_cfg_scale != 1:
            recipe["true_cfg"] = round(self.true_cfg_scale, 6)
        if self.strength is not None:
            recipe["strength"] = self.strength
        if self.start_sigma is not None:
            recipe["start_sigma"] = self.start_sigma
        if self.loras:
            recipe["lora"] = {lora.name: round(lora.scale, 6) for lora in self.loras}
        return recipe
