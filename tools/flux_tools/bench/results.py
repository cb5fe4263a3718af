"""What a run leaves behind: plain records, written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RequestOutcome:
    """One request. Times are seconds since the first one was due.

    due_s: when it should have been sent. error: what went wrong, None for an answer. difference: the largest one to
    stock diffusers' image in 8-bit steps, None where it was not compared.
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
    """One measurement: one system under one load. batch: the largest batch the server was told to make, if any.

    rate_per_s: of arrivals, for mode "open"; concurrency is 0 then. metrics: what the server's own counters grew by.
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
        """From the first request due to the last answer."""
        return max(outcome.ended_s for outcome in self.outcomes) - min(outcome.due_s for outcome in self.outcomes)

    @property
    def images_per_s(self) -> float:
        return len(self.answered) / self.wall_s


@dataclass(frozen=True)
class Fairness:
    """A short job among long ones. Seconds. solo_s: the short job alone. beside_s: after the long ones had started."""

    round: int
    system: str
    batch: int | None
    solo_s: float
    beside_s: float
    long_s: float
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ceiling:
    """Denoising steps called in a loop, with no server around them. step_s: seconds a step of `rows` images takes."""

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
    #: Closed-loop measurements that only chose the batch size of a system for a workload.
    calibration: list[Cell] = field(default_factory=list)
    fairness: list[Fairness] = field(default_factory=list)
    ceiling: list[Ceiling] = field(default_factory=list)
    #: What could not be measured, and why.
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
    """Several runs as one; rounds are numbered on. Machine, versions, and a workload's options are the first one's."""
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
