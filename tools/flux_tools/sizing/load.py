"""Tokens for each GPU, waiting and running, that an autoscaler should aim at."""

from __future__ import annotations

from flux_serving.scheduling.scheduler import DEFAULT_LIMITS
from flux_tools.simulation.machine import H100_EAGER, Machine

#: Full steps that the images of one GPU are together: when each takes its turn, an image takes so many times as long as
#: alone. Fewer would leave steps half empty between two looks of the autoscaler, more would be waiting.
FULL_STEPS = 2


def target_tokens() -> int:
    return FULL_STEPS * DEFAULT_LIMITS.step_tokens


def round_seconds(row_tokens: int, machine: Machine = H100_EAGER) -> float:
    """Until every image of a GPU at the target has taken one step. row_tokens: of each."""
    rows = target_tokens() // row_tokens
    in_one_step = max(1, DEFAULT_LIMITS.step_tokens // row_tokens)
    steps = [min(in_one_step, rows - first) for first in range(0, rows, in_one_step)]
    return sum(machine.step_seconds([row_tokens] * step) for step in steps)
