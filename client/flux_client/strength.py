"""A strength from 0 to 1 that people can reckon with: half is half of the way from no picture to the whole picture.

The weight of a picture's tokens is not such a scale: on the demo checkpoint half of the way lies below 0.25. How far
each weight goes was measured there (docs/redux-control.md); `scripts/measure_demo calibrated` writes the curve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flux_contract.errors import InvalidRequest

#: Pairs of a weight and of the share of the way that it goes; both rise, from 0 to 1.
CURVE = Path(__file__).with_name("strength_curve.json")


def with_weights(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs with `image_strength` for `strength`. Raises InvalidRequest: both are given, or as `weight_of`."""
    rest = {name: value for name, value in knobs.items() if name != "strength"}
    strength = knobs.get("strength")
    if strength is None:
        return rest
    if rest.get("image_strength") is not None:
        raise InvalidRequest("strength and image_strength are two scales of the same, expected one of them")
    given = strength.tolist() if isinstance(strength, (np.ndarray, np.generic)) else strength
    is_one = isinstance(given, str) or not isinstance(given, Sequence)
    return rest | {"image_strength": weight_of(given) if is_one else [weight_of(one) for one in given]}


def weight_of(strength: float) -> float:
    """The weight that goes this share of the way, by straight lines between what was measured.

    strength: 0..1. Raises InvalidRequest: it is out of these bounds, or no number.
    """
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
        raise InvalidRequest(f"strength={strength!r}, expected 0..1; image_strength takes weights")
    weights, shares = _curve()
    return float(np.interp(strength, shares, weights))


@lru_cache(maxsize=1)
def _curve() -> tuple[list[float], list[float]]:
    """Weights, and the share of the way that each goes."""
    weights, shares = zip(*json.loads(CURVE.read_text()), strict=True)
    return list(weights), list(shares)
