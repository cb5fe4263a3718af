"""Results of a run: plain records, written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RequestOutcome:
    """Outcome of one request. Times are seconds since the start of the loop.

    due_s: when the request should have been sent. error: None if it succeeded. difference: the largest difference from
    stock diffusers' image in 8-bit levels, None if it was not compared.
    """

    index: int
    due_s: float
    ended_s: float
    error: str | None = None
    difference: int | None = None

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s


@dataclass(frozen=True)
class Cell:
    """One measurement: one system under one load.

    batch: maximum batch size, for servers that batch. rate_per_s: arrival rate, for mode "open", where concurrency is
    0. metrics: increase of the server's counters.
    """

    round: int
    workload: str
    system: str
    mode: str
    concurrency: int
    batch: int | None
    outcomes: tuple[RequestOutcome, ...]
    rate_per_s: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> list[RequestOutcome]:
        return [outcome for outcome in self.outcomes if outcome.error is None]

    @property
    def wall_s(self) -> float:
        """Seconds from the time at which the first request was due to the last response."""
        return max(outcome.ended_s for outcome in self.outcomes) - min(outcome.due_s for outcome in self.outcomes)

    @property
    def images_per_s(self) -> float:
        return len(self.answered) / self.wall_s


@dataclass(frozen=True)
class Fairness:
    """Seconds of a short job, alone (solo_s) and with long jobs (beside_s), and of the slowest long job (long_s)."""

    round: int
    system: str
    batch: int | None
    solo_s: float
    beside_s: float
    long_s: float
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ceiling:
    """Denoising steps in a loop without a server. step_s: seconds per step of `rows` images."""

    round: int
    code: str
    side: int
    rows: int
    step_s: float
    has_prompt: bool = False


@dataclass
class BenchResults:
    machine: dict[str, str]
    versions: dict[str, str]
    options: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)
    #: Closed-loop measurements that chose the batch sizes.
    calibration: list[Cell] = field(default_factory=list)
    fairness: list[Fairness] = field(default_factory=list)
    ceiling: list[Ceiling] = field(default_factory=list)
    #: Measurements that failed, with the reason.
    failures: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> BenchResults:
        raw = json.loads(path.read_text())
        for name in ("cells", "calibration"):
            raw[name] = [read_cell(cell) for cell in raw[name]]
        raw["fairness"] = [Fairness(**{**one, "errors": tuple(one["errors"])}) for one in raw["fairness"]]
        raw["ceiling"] = [Ceiling(**one) for one in raw["ceiling"]]
        return cls(**raw)


def merged(parts: Sequence[BenchResults]) -> BenchResults:
    """Merge several runs into one with consecutive rounds.

    Machine and versions are from the first run, the options of a workload from the first run that has it.
    """
    first = parts[0]
    workloads: dict[str, dict[str, Any]] = {}
    for part in parts:
        for workload in part.options["workloads"]:
            workloads.setdefault(workload["name"], workload)
    whole = BenchResults(first.machine, first.versions, first.options | {"workloads": list(workloads.values())})
    for part in parts:
        done = max((cell.round for cell in whole.cells), default=0)
        whole.cells += [replace(cell, round=cell.round + done) for cell in part.cells]
        whole.fairness += [replace(one, round=one.round + done) for one in part.fairness]
        whole.ceiling += [replace(one, round=one.round + done) for one in part.ceiling]
        whole.calibration += part.calibration
        whole.failures += part.failures
    return whole


def read_cell(raw: dict[str, Any]) -> Cell:
    return Cell(**{**raw, "outcomes": tuple(RequestOutcome(**outcome) for outcome in raw["outcomes"])})
