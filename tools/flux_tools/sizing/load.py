"""Target of an autoscaler: waiting and running tokens per GPU."""

from __future__ import annotations

from flux_serving.scheduling.scheduler import DEFAULT_LIMITS
from flux_tools.simulation.machine import H100_EAGER, Machine

#: Work of a GPU in full steps. The images take turns, so each takes this many times as long as alone. With less work,
#: steps would be half empty between two readings of the autoscaler; with more, requests would wait.
FULL_STEPS = 2


def target_tokens() -> int:
    return FULL_STEPS * DEFAULT_LIMITS.step_tokens


def round_seconds(row_tokens: int, machine: Machine = H100_EAGER) -> float:
    """Return the seconds until every image of a GPU at the target has taken one step. row_tokens: tokens per image."""
    rows = target_tokens() // row_tokens
    in_one_step = max(1, DEFAULT_LIMITS.step_tokens // row_tokens)
    steps = [min(in_one_step, rows - first) for first in range(0, rows, in_one_step)]
    return sum(machine.step_seconds([row_tokens] * step) for step in steps)
