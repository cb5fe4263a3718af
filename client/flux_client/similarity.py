"""Converts `similarity`, 0..1, to an image weight. At 0.5, a variation is halfway between no image and the full image.

The effect of an image's weight is not linear: on the demo checkpoint, a weight below 0.25 is halfway. The curve was
measured on that checkpoint (docs/redux-control.md); `scripts/measure_demo calibrated` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import IMAGE_STRENGTH, SIMILARITY

#: Pairs of a weight and the similarity that it results in. Both rise from 0 to 1.
CURVE = Path(__file__).with_name("similarity_curve.json")


def with_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `similarity` by `image_strength`.

    Raises InvalidRequest: both are set. Also raises as `weight_of`.
    """
    name, weight_name = SIMILARITY.python_name, IMAGE_STRENGTH.python_name
    rest = {keyword: value for keyword, value in options.items() if keyword != name}
    similarity = options.get(name)
    if similarity is None:
        return rest
    if rest.get(weight_name) is not None:
        raise InvalidRequest(f"{name} and {weight_name} set the same weight; set only one of them")
    given = similarity.tolist() if isinstance(similarity, (np.ndarray, np.generic)) else similarity
    is_one = isinstance(given, str) or not isinstance(given, Sequence)
    return rest | {weight_name: weight_of(given) if is_one else [weight_of(one) for one in given]}


def weight_of(similarity: float) -> float:
    """Return the weight for a similarity of 0..1, interpolated linearly between measured points.

    Raises InvalidRequest: the value is out of bounds or not a number.
    """
    if isinstance(similarity, bool) or not isinstance(similarity, (int, float)) or not 0 <= similarity <= 1:
        name, weight_name = SIMILARITY.python_name, IMAGE_STRENGTH.python_name
        raise InvalidRequest(f"{name}={similarity!r}, expected {SIMILARITY.bounds}; {weight_name} accepts weights")
    weights, similarities = _curve()
    return float(np.interp(similarity, similarities, weights))


@lru_cache(maxsize=1)
def _curve() -> tuple[list[float], list[float]]:
    """Return weights, and the similarity that each results in."""
    weights, similarities = zip(*json.loads(CURVE.read_text()), strict=True)
    return list(weights), list(similarities)
