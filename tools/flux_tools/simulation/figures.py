"""Every figure of the simulation that comes from outside, with its source. Nothing here was measured on a GPU by us."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Steps of one size, timed."""

    #: Rows that shared a step.
    rows: int
    #: Tokens of a row, of image and context.
    tokens: int
    #: Seconds of the whole step.
    step_seconds: float
    source: str


#: A token is a square of 16 pixels; 512 are the text's.
_REFERENCE_TOKENS = 4096 + 512
_REFERENCE_STEPS = 28
_REFERENCE = "published by others: FLUX.1-dev, 1024x1024, 28 steps, one H100"

H100_EAGER = Timing(1, _REFERENCE_TOKENS, 6.57 / _REFERENCE_STEPS, f"{_REFERENCE}, bfloat16: 6.57 s")
H100_EAGER_OF_8 = Timing(8, _REFERENCE_TOKENS, 8 * 6.18 / _REFERENCE_STEPS, f"{_REFERENCE}, bfloat16: 6.18 s each of 8")
H100_COMPILED = Timing(1, _REFERENCE_TOKENS, 4.21 / _REFERENCE_STEPS, f"{_REFERENCE}, bfloat16, compiled: 4.21 s")
H100_FP8 = Timing(1, _REFERENCE_TOKENS, 2.97 / _REFERENCE_STEPS, f"{_REFERENCE}, fp8, compiled: 2.97 s")

_DEMO = "measured: demo checkpoint on two CPU cores in float32"
DEMO_CPU_64 = [
    Timing(rows, 16 + 16 + 1, seconds, f"{_DEMO}, 64x64")
    for rows, seconds in {1: 0.019, 2: 0.023, 4: 0.025, 8: 0.026, 16: 0.041}.items()
]
DEMO_CPU_512 = Timing(1, 1024 + 16 + 1, 0.118, f"{_DEMO}, 512x512; more rows take as much more")

#: Redux tokens of an image, and one of weight 512 that stands for 512 zero text tokens, or those 512.
CONTEXT_TOKENS = 729 + 1
PLAIN_CONTEXT_TOKENS = 729 + 512

#: FLUX.1's transformer, from its config.json.
FLUX_WIDTH = 3072
FLUX_BLOCKS = 19 + 38
