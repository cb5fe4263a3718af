"""Seconds that a server needs to shut down without losing an image.

First, preStop sleeps until no client sends new requests. On SIGTERM the launcher continues to serve until it is idle or
its exit timeout has passed. Then Triton finishes the remaining requests, for at most the exit timeout again, and
processes that are still running are killed.
"""

from __future__ import annotations

import math

from flux_contract import limits
from flux_serving.launch.server import ServerOptions
from flux_tools.simulation.machine import H100_EAGER, Machine, image_tokens

#: TTL of kubeadm's CoreDNS: clients may use a cached address of a terminating pod for this long.
_NAME_S = 30
#: Share of its maximum age by which Triton may close a gRPC connection later.
_JITTER = 0.1
#: Seconds that the launcher waits for Triton beyond the exit timeout, plus the time to kill it.
_KILL_S = 10 + 5


def pre_stop_seconds(connection_age: float = ServerOptions.connection_age_s) -> int:
    """Return the seconds until the connection of the last client with a cached address is closed."""
    return math.ceil(_NAME_S + connection_age * (1 + _JITTER))


def longest_image_seconds(
    side: int = limits.MAX_SIDE,
    steps: int = limits.MAX_STEPS,
    context_tokens: int = limits.MAX_CONTEXT_TOKENS,
    machine: Machine = H100_EAGER,
) -> float:
    """Return the seconds of one image alone on the machine, with a negative prompt, which adds a second row.

    side: pixels. machine: one of docs/scaling.md; by default the slowest GPU there.
    """
    row = image_tokens(side, side) + context_tokens
    return steps * machine.step_seconds([row, row])


def grace_period_seconds(pre_stop: float, exit_timeout: float) -> int:
    """Return the minimum `terminationGracePeriodSeconds`, which includes the preStop hook."""
    return math.ceil(pre_stop + 2 * exit_timeout + _KILL_S)
