"""What a request asks of the sampler, checked and complete."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from flux_serving.contract import limits
from flux_serving.contract import models as contract
from flux_serving.contract.tensors import Array
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
        height = _side(contract.HEIGHT.name, values, native_side, token_side)
        width = _side(contract.WIDTH.name, values, native_side, token_side)
        count = int(_first(values, contract.NUM_IMAGES.name, limits.DEFAULT_IMAGES))
        steps = int(_first(values, contract.NUM_INFERENCE_STEPS.name, limits.DEFAULT_STEPS))
        first_step, end_step = _span(values, steps)
        return cls(
            height=height,
            width=width,
            steps=steps,
            first_step=first_step,
            end_step=end_step,
            guidance=float(_first(values, contract.GUIDANCE_SCALE.name, limits.DEFAULT_GUIDANCE)),
            seeds=_seeds(int(_first(values, contract.SEED.name, limits.DEFAULT_SEED)), count),
        )


def _first(values: Mapping[str, Array], name: str, default: float) -> float:
    return values[name].item() if name in values else default


def _side(name: str, values: Mapping[str, Array], native_side: int, token_side: int) -> int:
    side = int(_first(values, name, native_side))
    if side % token_side:
        below = side // token_side * token_side
        nearest = f"{below} or {below + token_side}" if below else str(token_side)
        raise InvalidRequest(f"{name}={side}, expected a multiple of {token_side}; nearest: {nearest}")
    return side


def _span(values: Mapping[str, Array], steps: int) -> tuple[int, int]:
    """The first step to run, and the one to stop before."""
    start = int(_first(values, contract.START_STEP.name, 0))
    end = int(_first(values, contract.END_STEP.name, steps))
    if end > steps:
        raise InvalidRequest(f"{contract.END_STEP.name}={end}, expected at most {steps} steps")
    if start >= end:
        raise InvalidRequest(f"{contract.START_STEP.name}={start}, expected 0..{end - 1}: {end} is where the run ends")
    if start and contract.INITIAL_LATENTS.name not in values:
        raise InvalidRequest(f"{contract.START_STEP.name}={start} needs {contract.INITIAL_LATENTS.name}")
    return start, end


def _seeds(first: int, count: int) -> tuple[int, ...]:
    if first == limits.RANDOM_SEED:
        first = secrets.randbelow(2**32)
    if first + count - 1 > limits.MAX_SEED:
        raise InvalidRequest(f"{contract.SEED.name}={first} leaves no room for {count} seeds")
    return tuple(range(first, first + count))
