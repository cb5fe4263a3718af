"""Timings that the simulation is fitted to, with their sources. None was measured on a GPU by this project."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Measured time of a step."""

    #: Rows that shared a step.
    rows: int
    #: Image and context tokens of a row.
    tokens: int
    step_seconds: float
    source: str


#: One token for every 16x16 pixels of 1024x1024, and 512 text tokens.
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
DEMO_CPU_512 = Timing(1, 1024 + 16 + 1, 0.118, f"{_DEMO}, 512x512; the time is proportional to the rows")

#: Redux tokens of an image, plus one token of weight 512 for the 512 zero text tokens; PLAIN: plus those 512 tokens.
CONTEXT_TOKENS = 729 + 1
PLAIN_CONTEXT_TOKENS = 729 + 512

#: FLUX.1's transformer, from its config.json.
FLUX_WIDTH = 3072
FLUX_BLOCKS = 19 + 38
