"""What a denoising step costs.

    step seconds = overhead + sum over its rows of (per_token * tokens + per_token_pair * tokens²)

For FLUX.1 on a GPU the ratio of the last two is counted from the transformer's sizes, and overhead and speed are fitted
to two timings. Text encoding and decoding are inside those timings, so they are spread over the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression

from flux_tools.simulation import figures
from flux_tools.simulation.figures import Timing

#: Operations of a token in all blocks: 12 WIDTH² weights, a multiplication and an addition each.
_TOKEN_OPERATIONS = 2 * 12 * figures.FLUX_WIDTH**2 * figures.FLUX_BLOCKS
#: Operations of attention for each pair of tokens: the logit and the weighted sum.
_PAIR_OPERATIONS = 2 * 2 * figures.FLUX_WIDTH * figures.FLUX_BLOCKS


def image_tokens(width: int, height: int) -> int:
    """width, height: pixels."""
    return (width // 16) * (height // 16)


@dataclass(frozen=True)
class Machine:
    """A GPU or a CPU, by what its steps cost, in seconds."""

    name: str
    #: Of a step, however little is in it.
    overhead: float
    #: Of a token in a step.
    per_token: float
    #: Of a pair of tokens of one row in a step.
    per_token_pair: float

    def row_seconds(self, tokens: int) -> float:
        """What a row adds to a step."""
        return self.per_token * tokens + self.per_token_pair * tokens**2

    def step_seconds(self, rows: Sequence[int]) -> float:
        """rows: tokens of each."""
        return self.overhead + sum(map(self.row_seconds, rows))

    def as_fast_as(self, name: str, timing: Timing) -> Machine:
        """All costs scaled alike, so that this timing comes out."""
        factor = timing.step_seconds / self.step_seconds([timing.tokens] * timing.rows)
        return Machine(name, self.overhead * factor, self.per_token * factor, self.per_token_pair * factor)


def fit_flux(name: str, one: Timing, several: Timing) -> Machine:
    """Two timings of rows of the same size, two unknowns: overhead and speed."""
    row_seconds = (several.step_seconds - one.step_seconds) / (several.rows - one.rows)
    speed = (_TOKEN_OPERATIONS * one.tokens + _PAIR_OPERATIONS * one.tokens**2) / row_seconds
    return Machine(name, one.step_seconds - row_seconds, _TOKEN_OPERATIONS / speed, _PAIR_OPERATIONS / speed)


def fit_demo(name: str, small: Sequence[Timing], large: Timing) -> Machine:
    """Least squares over the small rows, whose pairs of tokens hardly count; what the large row takes more is pairs."""
    fit = linear_regression([t.rows * t.tokens for t in small], [t.step_seconds for t in small])
    per_pair = (large.step_seconds - fit.intercept - fit.slope * large.tokens) / large.tokens**2
    return Machine(name, fit.intercept, fit.slope, per_pair)


H100_EAGER = fit_flux("H100, bfloat16, eager", figures.H100_EAGER, figures.H100_EAGER_OF_8)
H100_COMPILED = H100_EAGER.as_fast_as("H100, bfloat16, compiled", figures.H100_COMPILED)
H100_FP8 = H100_EAGER.as_fast_as("H100, fp8, compiled", figures.H100_FP8)
DEMO_CPU = fit_demo("demo checkpoint, two CPU cores", figures.DEMO_CPU_64, figures.DEMO_CPU_512)
