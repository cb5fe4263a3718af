"""The seed of each image of a request."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_contract.parameters import NUM_IMAGES, SEED
from flux_contract.tensors import Array


def image_seeds(values: Mapping[str, Array]) -> tuple[int, ...]:
    """Return one seed per image: the given seeds, or the only seed and its successors.

    values: the request's tensors by name, without the batch dimension, each within the contract's bounds.
    Raises InvalidRequest: the number of seeds is neither 1 nor NUM_IMAGES, or a successor exceeds the largest seed.
    """
    given: list[int] = values[SEED.name].tolist() if SEED.name in values else [limits.DEFAULT_SEED]
    count = int(NUM_IMAGES.value_in(values, default=len(given)))
    if len(given) not in (1, count):
        raise InvalidRequest(
            f"{SEED.name} has {len(given)} values and {NUM_IMAGES.name}={count}, "
            "expected one seed, or one for each image"
        )
    seeds = [secrets.randbelow(2**32) if seed == limits.RANDOM_SEED else seed for seed in given]
    if len(seeds) == count:
        return tuple(seeds)
    if seeds[0] + count - 1 > limits.MAX_SEED:
        raise InvalidRequest(
            f"{SEED.name}={seeds[0]} with {NUM_IMAGES.name}={count}, expected at most {limits.MAX_SEED - count + 1}"
        )
    return tuple(range(seeds[0], seeds[0] + count))
