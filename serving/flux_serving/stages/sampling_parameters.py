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
    """height, width: pixels. steps: denoising steps. seeds: one for each image wanted."""

    height: int
    width: int
    steps: int
    guidance: float
    seeds: tuple[int, ...]

    @classmethod
    def from_tensors(cls, values: Mapping[str, Array], native_side: int, token_side: int) -> SamplingParameters:
        """values: the tensors that are present, by name, each already within the contract's bounds.

        native_side: pixels, where no size is given. token_side: pixels that a side must be a multiple of.
        Raises InvalidRequest: a side is no such multiple, or the seeds run past the largest.
        """
        height = _side(contract.HEIGHT.name, values, native_side, token_side)
        width = _side(contract.WIDTH.name, values, native_side, token_side)
        count = int(_first(values, contract.NUM_IMAGES.name, limits.DEFAULT_IMAGES))
        return cls(
            height=height,
            width=width,
            steps=int(_first(values, contract.NUM_INFERENCE_STEPS.name, limits.DEFAULT_STEPS)),
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


def _seeds(first: int, count: int) -> tuple[int, ...]:
    if first == limits.RANDOM_SEED:
        first = secrets.randbelow(2**32)
    if first + count - 1 > limits.MAX_SEED:
        raise InvalidRequest(f"{contract.SEED.name}={first} leaves no room for {count} seeds")
    return tuple(range(first, first + count))
