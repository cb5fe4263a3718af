"""What a request asks of the sampler, checked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flux_contract import parameters
from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import INITIAL_LATENTS, NEGATIVE_CONTEXT, SOURCE_LATENTS
from flux_contract.seeds import image_seeds
from flux_contract.tensors import Array
from flux_serving.conditioning.context import ALWAYS, Span
from flux_serving.conditioning.picture_control import spans_in
from flux_serving.images.picture_size import Sides
from flux_serving.sampling.noise_schedule import NoiseSchedule
from flux_serving.sampling.starting import started_at, step_of_strength


@dataclass(frozen=True)
class Lora:
    """An adapter by its name, and how much of it."""

    name: str
    scale: float


@dataclass(frozen=True)
class SamplingParameters:
    """height, width: pixels. seeds: one for each image wanted.

    steps: of the whole schedule, of which those from first_step on, and before end_step, are run. strength,
    start_sigma: at most one of them, and only where a picture is to be changed.
    """

    height: int
    width: int
    steps: int
    guidance: float
    seeds: tuple[int, ...]
    first_step: int
    end_step: int
    true_cfg_scale: float = 1.0
    strength: float | None = None
    start_sigma: float | None = None
    control_scale: float = 1.0
    control_span: Span = ALWAYS
    loras: tuple[Lora, ...] = ()

    @property
    def is_unchanged(self) -> bool:
        """Whether the picture is to come back as it is."""
        return 0 in (self.strength, self.start_sigma)

    @property
    def steps_to_run(self) -> int:
        """Steps of the schedule that are run; with a start sigma, at most."""
        first = self.first_step if self.strength is None else step_of_strength(self.strength, self.steps)
        return self.end_step - first

    def begin(self, schedule: NoiseSchedule) -> tuple[NoiseSchedule, int]:
        """The schedule to run, and the first step.

        Raises InvalidRequest: by the strength or the sigma it comes after the end.
        """
        first = self.first_step
        if self.strength is not None:
            first = step_of_strength(self.strength, self.steps)
        elif self.start_sigma is not None:
            schedule, first = started_at(schedule, self.start_sigma)
        if first >= self.end_step:
            raise InvalidRequest(f"{parameters.END_STEP.name}={self.end_step}, but the first step to run is {first}")
        return schedule, first

    def as_recipe(self, has_guidance: bool) -> dict[str, Any]:
        """For a picture's metadata: what is usual is left out. has_guidance: whether the checkpoint reads it."""
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

    @classmethod
    def from_tensors(cls, values: Mapping[str, Array], sides: Sides, default_steps: int) -> SamplingParameters:
        """values: the tensors that are present, by name, each already within the contract's bounds.

        sides, default_steps: of the checkpoint.
        Raises InvalidRequest: a side is no multiple of what it must be, the seeds run past the largest, there is no
        step to run or nothing to begin it with, or one input needs another, or excludes it.
        """
        height, width = sides.asked_in(values)
        steps = int(parameters.NUM_INFERENCE_STEPS.value_in(values, default=default_steps))
        first_step, end_step = _span(values, steps)
        strength, start_sigma = _change(values)
        (control_span,) = spans_in(values, parameters.CONTROL_START, parameters.CONTROL_END, 1)
        return cls(
            height=height,
            width=width,
            steps=steps,
            first_step=first_step,
            end_step=end_step,
            guidance=float(parameters.GUIDANCE_SCALE.value_in(values)),
            true_cfg_scale=_true_cfg_scale(values),
            seeds=image_seeds(values),
            strength=strength,
            start_sigma=start_sigma,
            control_scale=float(parameters.CONTROL_SCALE.value_in(values)),
            # As for the strength: in float32 0.1 comes after the step at which a tenth of them is over.
            control_span=Span(round(control_span.start, 6), round(control_span.end, 6)),
            loras=_loras(values),
        )


def _span(values: Mapping[str, Array], steps: int) -> tuple[int, int]:
    """The first step to run, and the one to stop before."""
    start = int(parameters.START_STEP.value_in(values))
    end = int(parameters.END_STEP.value_in(values, default=steps))
    if end > steps:
        raise InvalidRequest(f"{parameters.END_STEP.name}={end}, expected at most {steps} steps")
    if start >= end:
        raise InvalidRequest(
            f"{parameters.START_STEP.name}={start}, expected 0..{end - 1}: {end} is where the run ends"
        )
    if start and INITIAL_LATENTS.name not in values:
        raise InvalidRequest(f"{parameters.START_STEP.name}={start} needs {INITIAL_LATENTS.name}")
    return start, end


def _change(values: Mapping[str, Array]) -> tuple[float | None, float | None]:
    """STRENGTH and START_SIGMA: none where there is no picture to change, or else one of them."""
    given = [tensor.name for tensor in (parameters.STRENGTH, parameters.START_SIGMA) if tensor.name in values]
    if SOURCE_LATENTS.name not in values:
        if given:
            raise InvalidRequest(f"{given[0]} needs {SOURCE_LATENTS.name}")
        return None, None
    if INITIAL_LATENTS.name in values:
        raise InvalidRequest(f"{SOURCE_LATENTS.name} and {INITIAL_LATENTS.name} are given, expected one of them")
    return change_in(values)


def change_in(values: Mapping[str, Array]) -> tuple[float | None, float | None]:
    """How much of a picture is to change: the strength or the sigma. Raises InvalidRequest: both are given."""
    if parameters.START_SIGMA.name not in values:
        # As float32 0.6 is 0.60000002, which would begin a step earlier than diffusers does.
        return round(float(parameters.STRENGTH.value_in(values)), 6), None
    if parameters.STRENGTH.name in values:
        raise InvalidRequest(
            f"{parameters.STRENGTH.name} and {parameters.START_SIGMA.name} are two scales of the same, "
            "expected one of them"
        )
    return None, round(float(parameters.START_SIGMA.value_in(values)), 6)


def _true_cfg_scale(values: Mapping[str, Array]) -> float:
    """A scale without a negative prompt would be without effect, and the other way round."""
    scale = float(parameters.TRUE_CFG_SCALE.value_in(values))
    has_negative = NEGATIVE_CONTEXT.name in values
    if scale != 1 and not has_negative:
        raise InvalidRequest(
            f"{parameters.TRUE_CFG_SCALE.name}={scale:g} needs {parameters.NEGATIVE_PROMPT.name}, which may be empty"
        )
    if scale == 1 and has_negative:
        raise InvalidRequest(f"{parameters.NEGATIVE_PROMPT.name} needs {parameters.TRUE_CFG_SCALE.name} above 1")
    return scale


def _loras(values: Mapping[str, Array]) -> tuple[Lora, ...]:
    if parameters.LORA.name not in values:
        if parameters.LORA_SCALE.name in values:
            raise InvalidRequest(f"{parameters.LORA_SCALE.name} needs {parameters.LORA.name}")
        return ()
    names = parameters.LORA.texts_in(values)
    if len(set(names)) < len(names):
        raise InvalidRequest(f"{parameters.LORA.name} names an adapter twice")
    scales = parameters.LORA_SCALE.values_in(values, len(names), "adapters")
    return tuple(Lora(name, float(scale)) for name, scale in zip(names, scales, strict=True))
