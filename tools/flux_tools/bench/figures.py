"""From records to figures: percentiles, medians over rounds, ratios round by round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flux_tools.bench.results import Cell

#: The system that the ratios are of.
OURS = "ours-grpc"
#: A loop has no clients: it counts at every concurrency with what it did at 1.
LOOP = "loop"


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds: its median, and the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def closed(cells: Iterable[Cell], workload: str, system: str, concurrency: int) -> dict[int, Cell]:
    """The measurements of one load, by round."""
    wanted = 1 if system == LOOP else concurrency
    return {
        cell.round: cell
        for cell in cells
        if (cell.workload, cell.system, cell.mode, cell.concurrency) == (workload, system, "closed", wanted)
    }


def opened(cells: Iterable[Cell], workload: str, system: str) -> dict[int, Cell]:
    """The measurements under Poisson arrivals, by round."""
    return {cell.round: cell for cell in cells if (cell.workload, cell.system, cell.mode) == (workload, system, "open")}


def throughput(by_round: Mapping[int, Cell]) -> dict[int, float]:
    """Images a second, by round."""
    return {number: cell.images_per_s for number, cell in by_round.items()}


def best_of(systems: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """The greatest of each round, over the systems that were measured in it."""
    best: dict[int, float] = {}
    for by_round in systems:
        for number, value in by_round.items():
            best[number] = max(value, best.get(number, value))
    return best


def ratio(ours: Mapping[int, float], other: Mapping[int, float]) -> Spread | None:
    """Ours divided by the other's, round by round, so that a slow spell of the machine hits both; None: no round."""
    values = [ours[number] / other[number] for number in ours if other.get(number, 0) > 0]
    return Spread.of(values) if values else None


@dataclass(frozen=True)
class Latency:
    """Seconds, over the answers of all rounds. failed, asked: requests."""

    p50_s: float
    p95_s: float
    p99_s: float
    failed: int
    asked: int


def latency(cells: Iterable[Cell]) -> Latency | None:
    """None: nothing was answered."""
    outcomes = [outcome for cell in cells for outcome in cell.outcomes]
    answered = [outcome.latency_s for outcome in outcomes if outcome.error is None]
    if not answered:
        return None
    p50, p95, p99 = np.percentile(answered, (50, 95, 99)).tolist()
    return Latency(p50, p95, p99, len(outcomes) - len(answered), len(outcomes))


@dataclass(frozen=True)
class Agreement:
    """compared: images. worst: the largest difference to stock diffusers, 8-bit steps. failed, asked: requests."""

    compared: int
    worst: int | None
    failed: int
    asked: int


def agreement(cells: Iterable[Cell]) -> Agreement:
    outcomes = [outcome for cell in cells for outcome in cell.outcomes]
    differences = [outcome.difference for outcome in outcomes if outcome.difference is not None]
    failed = sum(outcome.error is not None for outcome in outcomes)
    return Agreement(len(differences), max(differences, default=None), failed, len(outcomes))
