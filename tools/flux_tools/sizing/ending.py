"""Seconds that a server needs to end without losing an image.

First nobody may come any more; meanwhile preStop sleeps. On SIGTERM the launcher goes on serving until it is idle, or
for its exit timeout; then Triton ends what is left, for as long again at most, and what does not end is killed.
"""

from __future__ import annotations

import math

from flux_contract import limits
from flux_serving.launch.server import ServerOptions
from flux_tools.simulation.machine import H100_EAGER, Machine, image_tokens

#: For so long kubeadm's CoreDNS lets an answer be kept, in which a pod may be that has begun to end.
_NAME_S = 30
#: Of its age a gRPC connection may be older before Triton ends it.
_JITTER = 0.1
#: What the launcher gives Triton beyond the exit timeout, and what killing takes.
_KILL_S = 10 + 5


def pre_stop_seconds(connection_age: float = ServerOptions.connection_age_s) -> int:
    """Until the last client has gone that connected by a name it had kept."""
    return math.ceil(_NAME_S + connection_age * (1 + _JITTER))


def longest_image_seconds(
    side: int = limits.MAX_SIDE,
    steps: int = limits.MAX_STEPS,
    context_tokens: int = limits.MAX_CONTEXT_TOKENS,
    machine: Machine = H100_EAGER,
) -> float:
    """Of one image that has the machine to itself, with a negative prompt, which is a second row.

    side: pixels. machine: of docs/scaling.md; by default the slowest GPU there.
    """
    row = image_tokens(side, side) + context_tokens
    return steps * machine.step_seconds([row, row])


def grace_period_seconds(pre_stop: float, exit_timeout: float) -> int:
    """The least `terminationGracePeriodSeconds`: it begins with the preStop hook."""
    return math.ceil(pre_stop + 2 * exit_timeout + _KILL_S)
