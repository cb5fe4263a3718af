"""Latency, slowdown and throughput of a simulation run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flux_tools.simulation.machine import Machine
from flux_tools.simulation.simulation import SimulationOutcome


@dataclass(frozen=True)
class Merit:
    """Summary of a run. Times are in seconds. Slowdown is latency divided by the time that a request takes alone."""

    requests: int
    refused_share: float
    p50: float
    p99: float
    mean_slowdown: float
    p50_slowdown: float
    p99_slowdown: float
    #: Requests that take less than 2 s alone.
    p99_slowdown_short: float
    #: The maximum over all requests, and over those of the lowest priority.
    max_slowdown: float
    max_slowdown_background: float
    #: Latency of the requests of the highest priority, and of all but the lowest priority.
    p99_interactive: float
    p99_foreground: float
    #: Finished images per second, from the first arrival to the last response.
    throughput: float
    steps: int
    #: Share of time in which the GPUs ran steps.
    busy_share: float

    def slowed(self, factor: float) -> Merit:
        """Return the merit of the same load on a machine whose steps take `factor` times as long.

        The scheduler's decisions do not depend on seconds, so times only scale.
        """
        return replace(
            self,
            p50=self.p50 * factor,
            p99=self.p99 * factor,
            p99_interactive=self.p99_interactive * factor,
            p99_foreground=self.p99_foreground * factor,
            throughput=self.throughput / factor,
        )


def judge(outcome: SimulationOutcome, machine: Machine, gpus: int) -> Merit:
    latency = np.array([end - request.arrival for request, end in outcome.finished])
    solos = {kind: kind.solo_seconds(machine) for kind in {request.kind for request, _ in outcome.finished}}
    solo = np.array([solos[request.kind] for request, _ in outcome.finished])
    priority = np.array([request.kind.priority for request, _ in outcome.finished])
    slowdown = latency / solo
    seconds = outcome.finished[-1][1] - min(request.arrival for request, _ in outcome.finished[:1000])
    requests = len(outcome.finished) + len(outcome.refused)
    return Merit(
        requests=requests,
        refused_share=len(outcome.refused) / requests,
        p50=_percentile(latency, 50),
        p99=_percentile(latency, 99),
        mean_slowdown=float(slowdown.mean()),
        p50_slowdown=_percentile(slowdown, 50),
        p99_slowdown=_percentile(slowdown, 99),
        p99_slowdown_short=_percentile(slowdown[solo < 2], 99),
        max_slowdown=float(slowdown.max()),
        max_slowdown_background=float(slowdown[priority == priority.min()].max()),
        p99_interactive=_percentile(latency[priority == priority.max()], 99),
        p99_foreground=_percentile(latency[priority > priority.min()], 99),
        throughput=len(outcome.finished) / seconds,
        steps=outcome.slices,
        busy_share=outcome.busy_seconds / (seconds * gpus),
    )


def _percentile(values: np.ndarray[Any, Any], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else float("nan")
