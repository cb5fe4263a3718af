"""Statistics of results: percentiles, medians over rounds, ratios by round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flux_tools.bench.results import Cell

#: The numerator of the ratios.
OURS = "ours-grpc"
#: The loop has no clients: its result at concurrency 1 is used for every concurrency.
LOOP = "loop"


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of a value over the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def closed(cells: Iterable[Cell], workload: str, system: str, concurrency: int) -> dict[int, Cell]:
    """Return the measurements of a closed loop, by round."""
    wanted = 1 if system == LOOP else concurrency
    return {
        cell.round: cell
        for cell in cells
        if (cell.workload, cell.system, cell.mode, cell.concurrency) == (workload, system, "closed", wanted)
    }


def opened(cells: Iterable[Cell], workload: str, system: str) -> dict[int, Cell]:
    """Return the measurements with Poisson arrivals, by round."""
    return {cell.round: cell for cell in cells if (cell.workload, cell.system, cell.mode) == (workload, system, "open")}


def throughput(by_round: Mapping[int, Cell]) -> dict[int, float]:
    """Return images per second, by round."""
    return {number: cell.images_per_s for number, cell in by_round.items()}


def best_of(systems: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Return the maximum of each round over the systems that were measured in it."""
    best: dict[int, float] = {}
    for by_round in systems:
        for number, value in by_round.items():
            best[number] = max(value, best.get(number, value))
    return best


def ratio(ours: Mapping[int, float], other: Mapping[int, float]) -> Spread | None:
    """Return ours divided by the other's over the rounds that have both, or None if there is no such round.

    Dividing within a round means that a slow machine affects both.
    """
    values = [ours[number] / other[number] for number in ours if other.get(number, 0) > 0]
    return Spread.of(values) if values else None


@dataclass(frozen=True)
class Latency:
    """Latency percentiles in seconds, over the responses of all rounds. failed, asked: number of requests."""

    p50_s: float
    p95_s: float
    p99_s: float
    failed: int
    asked: int


def latency(cells: Iterable[Cell]) -> Latency | None:
    """Return the latency over all cells, or None if all requests failed."""
    outcomes = [outcome for cell in cells for outcome in cell.outcomes]
    answered = [outcome.latency_s for outcome in outcomes if outcome.error is None]
    if not answered:
        return None
    p50, p95, p99 = np.percentile(answered, (50, 95, 99)).tolist()
    return Latency(p50, p95, p99, len(outcomes) - len(answered), len(outcomes))


@dataclass(frozen=True)
class Agreement:
    """Agreement with stock diffusers.

    compared: number of images. worst: the largest difference in 8-bit levels. failed, asked: number of requests.
    """

    compared: int
    worst: int | None
    failed: int
    asked: int


def agreement(cells: Iterable[Cell]) -> Agreement:
    outcomes = [outcome for cell in cells for outcome in cell.outcomes]
    differences = [outcome.difference for outcome in outcomes if outcome.difference is not None]
    failed = sum(outcome.error is not None for outcome in outcomes)
    return Agreement(len(differences), max(differences, default=None), failed, len(outcomes))
