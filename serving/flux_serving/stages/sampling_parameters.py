"""What a request asks of the sampler, checked and complete."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from flux_serving.contract import knobs, limits
from flux_serving.contract.models import INITIAL_LATENTS
from flux_serving.contract.tensors import Array, Tensor
from flux_serving.errors import InvalidRequest


@dataclass(frozen=True)
class SamplingParameters:
    """height, width: pixels. seeds: one for each image wanted.

    steps: of the whole schedule, of which those from first_step on, and before end_step, are run.
    """

    height: int
    width: int
    steps: int
    guidance: float
    seeds: tuple[int, ...]
    first_step: int
    end_step: int

    @property
    def steps_to_run(self) -> int:
        return self.end_step - self.first_step

    @classmethod
    def from_tensors(cls, values: Mapping[str, Array], native_side: int, token_side: int) -> SamplingParameters:
        """values: the tensors that are present, by name, each already within the contract's bounds.

        native_side: pixels, where no size is given. token_side: pixels that a side must be a multiple of.
        Raises InvalidRequest: a side is no such multiple, the seeds run past the largest, or there is no step to run
        or nothing to begin it with.
        """
        height = _side(knobs.HEIGHT, values, native_side, token_side)
        width = _side(knobs.WIDTH, values, native_side, token_side)
        count = int(knobs.NUM_IMAGES.value_in(values))
        steps = int(knobs.NUM_INFERENCE_STEPS.value_in(values))
        first_step, end_step = _span(values, steps)
        return cls(
            height=height,
            width=width,
            steps=steps,
            first_step=first_step,
            end_step=end_step,
            guidance=float(knobs.GUIDANCE_SCALE.value_in(values)),
            seeds=_seeds(int(knobs.SEED.value_in(values)), count),
        )


def _side(tensor: Tensor, values: Mapping[str, Array], native_side: int, token_side: int) -> int:
    side = int(tensor.value_in(values, default=native_side))
    if side % token_side:
        below = side // token_side * token_side
        nearest = f"{below} or {below + token_side}" if below else str(token_side)
        raise InvalidRequest(f"{tensor.name}={side}, expected a multiple of {token_side}; nearest: {nearest}")
    return side


def _span(values: Mapping[str, Array], steps: int) -> tuple[int, int]:
    """The first step to run, and the one to stop before."""
    start = int(knobs.START_STEP.value_in(values))
    end = int(knobs.END_STEP.value_in(values, default=steps))
    if end > steps:
        raise InvalidRequest(f"{knobs.END_STEP.name}={end}, expected at most {steps} steps")
    if start >= end:
        raise InvalidRequest(f"{knobs.START_STEP.name}={start}, expected 0..{end - 1}: {end} is where the run ends")
    if start and INITIAL_LATENTS.name not in values:
        raise InvalidRequest(f"{knobs.START_STEP.name}={start} needs {INITIAL_LATENTS.name}")
    return start, end


def _seeds(first: int, count: int) -> tuple[int, ...]:
    if first == limits.RANDOM_SEED:
        first = secrets.randbelow(2**32)
    if first + count - 1 > limits.MAX_SEED:
        raise InvalidRequest(f"{knobs.SEED.name}={first} leaves no room for {count} seeds")
    return tuple(range(first, first + count))
