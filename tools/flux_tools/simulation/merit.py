"""What became of the requests, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flux_tools.simulation.machine import Machine
from flux_tools.simulation.simulation import SimulationOutcome


@dataclass(frozen=True)
class Merit:
    """Times in seconds. Slowdown is latency divided by what the request takes alone."""

    requests: int
    refused_share: float
    p50: float
    p99: float
    mean_slowdown: float
    p50_slowdown: float
    p99_slowdown: float
    #: Of those that take less than 2 s alone.
    p99_slowdown_short: float
    #: The longest wait of all, and of those of the lowest priority, in the same measure.
    max_slowdown: float
    max_slowdown_background: float
    #: Latency of those of the highest priority, and of all but those of the lowest.
    p99_interactive: float
    p99_foreground: float
    #: Finished images a second, from the first arrival to the last answer.
    throughput: float
    steps: int
    #: Share of the time in which the GPUs ran steps.
    busy_share: float

    def slowed(self, factor: float) -> Merit:
        """The same load on a machine whose every step takes so many times as long: the scheduler knows no seconds."""
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
