"""Cost model of a denoising step.

    step seconds = overhead + sum over its rows of (per_token * tokens + per_token_pair * tokens²)

For FLUX.1 on a GPU the ratio of the last two is calculated from the transformer's dimensions; overhead and speed are
fitted to two timings. These include text encoding and decoding, which are therefore spread over the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression

from flux_tools.simulation import figures
from flux_tools.simulation.figures import Timing

#: Operations per token in all blocks: a multiplication and an addition for each of 12 WIDTH² weights.
_TOKEN_OPERATIONS = 2 * 12 * figures.FLUX_WIDTH**2 * figures.FLUX_BLOCKS
#: Operations of attention per pair of tokens: the logit and the weighted sum.
_PAIR_OPERATIONS = 2 * 2 * figures.FLUX_WIDTH * figures.FLUX_BLOCKS


def image_tokens(width: int, height: int) -> int:
    """Return the number of tokens of an image. width, height: pixels."""
    return (width // 16) * (height // 16)


@dataclass(frozen=True)
class Machine:
    """A GPU or a CPU, described by the cost of its steps in seconds."""

    name: str
    #: Fixed cost of a step.
    overhead: float
    #: Cost of a token in a step.
    per_token: float
    #: Cost of a pair of tokens of one row in a step.
    per_token_pair: float

    def row_seconds(self, tokens: int) -> float:
        """Return the seconds that a row adds to a step."""
        return self.per_token * tokens + self.per_token_pair * tokens**2

    def step_seconds(self, rows: Sequence[int]) -> float:
        """Return the seconds of a step. rows: the tokens of each row."""
        return self.overhead + sum(map(self.row_seconds, rows))

    def as_fast_as(self, name: str, timing: Timing) -> Machine:
        """Return this machine with all costs scaled by the factor that reproduces the timing."""
        factor = timing.step_seconds / self.step_seconds([timing.tokens] * timing.rows)
        return Machine(name, self.overhead * factor, self.per_token * factor, self.per_token_pair * factor)


def fit_flux(name: str, one: Timing, several: Timing) -> Machine:
    """Fit overhead and speed to two timings of rows of the same size."""
    row_seconds = (several.step_seconds - one.step_seconds) / (several.rows - one.rows)
    speed = (_TOKEN_OPERATIONS * one.tokens + _PAIR_OPERATIONS * one.tokens**2) / row_seconds
    return Machine(name, one.step_seconds - row_seconds, _TOKEN_OPERATIONS / speed, _PAIR_OPERATIONS / speed)


def fit_demo(name: str, small: Sequence[Timing], large: Timing) -> Machine:
    """Fit overhead and cost per token to the small rows by least squares, and the cost per pair to the large row.

    The small rows have too few pairs of tokens to matter.
    """
    fit = linear_regression([t.rows * t.tokens for t in small], [t.step_seconds for t in small])
    per_pair = (large.step_seconds - fit.intercept - fit.slope * large.tokens) / large.tokens**2
    return Machine(name, fit.intercept, fit.slope, per_pair)


H100_EAGER = fit_flux("H100, bfloat16, eager", figures.H100_EAGER, figures.H100_EAGER_OF_8)
#: This server implements neither `torch.compile` nor fp8: these two show the effect that faster steps would have.
H100_COMPILED = H100_EAGER.as_fast_as("H100, bfloat16, compiled (not implemented)", figures.H100_COMPILED)
H100_FP8 = H100_EAGER.as_fast_as("H100, fp8, compiled (not implemented)", figures.H100_FP8)
DEMO_CPU = fit_demo("demo checkpoint, two CPU cores", figures.DEMO_CPU_64, figures.DEMO_CPU_512)
