"""A whole run: calibration, then rounds in which every system has its turn at every workload."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flux_contract.errors import CannotStart
from flux_tools.bench.figures import OURS, latency
from flux_tools.bench.load import LoadTask
from flux_tools.bench.machine import machine, versions
from flux_tools.bench.plan import ImageOptions, Workload, poisson_arrivals_s, rotated
from flux_tools.bench.results import BenchResults, Ceiling, Cell, Fairness, read_cell
from flux_tools.bench.running import Running, ServerFailed, running
from flux_tools.bench.systems import SYSTEMS, System

#: Images of each workload that stock diffusers makes beforehand, for every system's to be compared with.
REFERENCES = 8
#: Blocks of one closed-loop measurement.
MAX_BLOCKS = 12
#: Requests of one open-loop measurement, in closed-loop measurements at concurrency 1.
OPEN_REQUESTS = 3
#: Requests that may share a call of a batching server, beside as many as there are clients.
BATCHES = (1, 8)


@dataclass(frozen=True)
class BenchSettings:
    """open_share: arrivals of the open loop, as a share of our throughput at the highest concurrency; 0: no open loop.

    long_jobs, long_steps, short_steps: of the fairness scenario; no long jobs: no scenario. ceiling_rows: images in a
    step of the raw loop; empty: none.
    """

    workloads: tuple[Workload, ...]
    systems: tuple[str, ...]
    rounds: int
    threads: int
    calibrate: bool
    open_share: float
    long_jobs: int
    ceiling_rows: tuple[int, ...]
    folder: Path
    long_steps: int = 50
    short_steps: int = 4


class BenchRun:
    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        self.results = BenchResults(machine(settings.threads), versions(), _plain(settings))
        self._file = settings.folder / "bench.json"
        #: Chosen by calibration, by (workload, system).
        self._batch = {(w.name, s): BATCHES[-1] for w in settings.workloads for s in settings.systems}
        self._rate_per_s: dict[str, float] = {}
        self._servers = list(dict.fromkeys(SYSTEMS[name].server or "" for name in settings.systems))

    def run(self) -> BenchResults:
        for workload in self.settings.workloads:
            self._reference(workload)
            self._calibrate(workload)
        for number in range(1, self.settings.rounds + 1):
            for turn, workload in enumerate(self.settings.workloads):
                for server in rotated(self._servers, number - 1 + turn):
                    self._visit(number, workload, server)
            if self.settings.long_jobs:
                for server in rotated(self._servers, number):
                    self._fairness(number, server)
            self._ceiling(number)
        return self.results

    def _on(self, server: str, workload: Workload) -> list[str]:
        """The systems to measure on this server; "" is no server."""
        chosen = [name for name in self.settings.systems if (SYSTEMS[name].server or "") == server]
        return [n for n in chosen if (only := SYSTEMS[n].workloads) is None or workload.name in only]

    def _batch_of(self, workload: Workload, name: str) -> int | None:
        return self._batch[workload.name, name] if SYSTEMS[name].batches else None

    def _reference(self, workload: Workload) -> None:
        jobs = workload.jobs(min(REFERENCES, max(map(workload.count, workload.concurrency))))
        say(f"{workload.name}: stock diffusers makes {len(jobs)} images to compare with")
        self._ask(SYSTEMS["loop"], None, "reference", workload, jobs, "reference")

    def _calibrate(self, workload: Workload) -> None:
        """The batch size that is best for each batching system, and how much we do at the highest concurrency."""
        top = max(workload.concurrency)
        wanted = [name for name in self.settings.systems if SYSTEMS[name].batches and self.settings.calibrate]
        for name in wanted:
            found: dict[int, float] = {}
            for batch in sorted({*BATCHES, top}):
                cells = self._measure(0, workload, [name], SYSTEMS[name].server or "", batch, (top,), is_open=False)
                self.results.calibration += cells
                if cells and cells[0].answered:
                    found[batch] = cells[0].images_per_s
            if found:
                self._batch[workload.name, name] = max(found, key=lambda batch: found[batch])
        if self.settings.open_share and workload.open_loop and OURS in self.settings.systems:
            cells = self._measure(0, workload, [OURS], "ours", None, (top,), is_open=False)
            self.results.calibration += cells
            if cells and cells[0].answered:
                self._rate_per_s[workload.name] = self.settings.open_share * cells[0].images_per_s
        self.results.save(self._file)

    def _visit(self, number: int, workload: Workload, server: str) -> None:
        names = self._on(server, workload)
        if not names:
            return
        batch = self._batch_of(workload, names[0])
        concurrency = (1,) if server == "" else workload.concurrency
        is_open = workload.name in self._rate_per_s and server != ""
        self.results.cells += self._measure(number, workload, names, server, batch, concurrency, is_open=is_open)
        self.results.save(self._file)

    def _measure(
        self,
        number: int,
        workload: Workload,
        names: Sequence[str],
        server: str,
        batch: int | None,
        concurrency: Sequence[int],
        *,
        is_open: bool,
    ) -> list[Cell]:
        """Closed loops of all the systems on one server, each at each concurrency, then the open loops."""
        cells = []
        try:
            with running(server, batch, self.settings.folder / "logs") as at:
                for name in names:
                    for clients in concurrency:
                        jobs = workload.jobs(MAX_BLOCKS * workload.count(clients))
                        cells.append(self._cell(number, workload, name, batch, at, jobs, clients))
                for name in names if is_open else ():
                    jobs = workload.jobs(OPEN_REQUESTS * workload.count(1))
                    cells.append(self._cell(number, workload, name, batch, at, jobs, 0))
        except (ServerFailed, CannotStart, LoadFailed) as error:
            self.results.failures.append(f"round {number}, {workload.name}, {server or 'loop'}: {error}")
            say(self.results.failures[-1])
        return cells

    def _cell(
        self,
        number: int,
        workload: Workload,
        name: str,
        batch: int | None,
        at: Running | None,
        jobs: Sequence[ImageOptions],
        clients: int,
    ) -> Cell:
        """clients: of the closed loop; 0 is the open loop."""
        rate = None if clients else self._rate_per_s[workload.name]
        arrivals = () if rate is None else tuple(poisson_arrivals_s(rate, len(jobs), seed=number))
        mode = "closed" if clients else "open"
        occasion = f"{number} {workload.name} {name} {mode} {clients} {batch}"
        answer = self._ask(SYSTEMS[name], at, mode, workload, jobs, occasion, max(clients, 1), arrivals)
        cell = read_cell(
            {
                "round": number,
                "workload": workload.name,
                "system": name,
                "mode": mode,
                "concurrency": clients,
                "batch": batch,
                "rate_per_s": rate,
                **answer,
            }
        )
        say(described(cell))
        return cell

    def _fairness(self, number: int, server: str) -> None:
        settings = self.settings
        workload = settings.workloads[0]
        names = [name for name in self._on(server, workload) if name != "ours-raw" and name != "ours-http"]
        if server == "" or not names:
            return
        name = names[0]
        batch = self._batch_of(workload, name)
        side = workload.kinds[0].side
        steps = [settings.long_steps] * settings.long_jobs + [settings.short_steps] * 4
        jobs = [ImageOptions(index, side, count, seed=1000 + index) for index, count in enumerate(steps)]
        try:
            with running(server, batch, settings.folder / "logs") as at:
                answer = self._ask(SYSTEMS[name], at, "fairness", workload, jobs, f"{number} fairness {name}", 1)
        except (ServerFailed, CannotStart, LoadFailed) as error:
            self.results.failures.append(f"round {number}, fairness, {server}: {error}")
            say(self.results.failures[-1])
            return
        one = Fairness(number, name, batch, **{**answer, "errors": tuple(answer["errors"])})
        self.results.fairness.append(one)
        self.results.save(self._file)
        say(f"round {number} fairness {name}: {one.solo_s:.2f} s alone, {one.beside_s:.2f} s beside the long jobs")

    def _ceiling(self, number: int) -> None:
        if not self.settings.ceiling_rows:
            return
        answer = self.settings.folder / "ceiling.json"
        for side in sorted({workload.kinds[0].side for workload in self.settings.workloads}):
            command = [sys.executable, "-m", "flux_tools.bench.ceiling", str(answer), str(side)]
            ended = subprocess.run([*command, *map(str, self.settings.ceiling_rows)], check=False)
            if ended.returncode:
                self.results.failures.append(f"round {number}, raw loop: exit status {ended.returncode}")
                continue
            steps = [Ceiling(round=number, **one) for one in json.loads(answer.read_text())]
            self.results.ceiling += steps
            self.results.save(self._file)
            for one in steps:
                say(f"round {number} raw loop {side}x{side}, {one.code}, {one.rows} rows: {1000 * one.step_s:.0f} ms")

    def _ask(
        self,
        system: System,
        at: Running | None,
        mode: str,
        workload: Workload,
        jobs: Sequence[ImageOptions],
        occasion: str,
        concurrency: int = 1,
        arrivals_s: tuple[float, ...] = (),
    ) -> dict[str, Any]:
        """Raises LoadFailed: the load generator ended with an error."""
        folder = self.settings.folder
        task = LoadTask(
            caller=system.caller,
            address=at.address(system.caller) if at else "",
            mode=mode,
            occasion=occasion,
            references=str(folder / "references" / workload.name),
            jobs=tuple(jobs),
            concurrency=concurrency,
            block=workload.count(concurrency),
            seconds=workload.seconds,
            arrivals_s=arrivals_s,
            metrics_url=at.metrics_url if at else None,
        )
        folder.mkdir(parents=True, exist_ok=True)
        asked, answered = folder / "task.json", folder / "answer.json"
        asked.write_text(json.dumps(asdict(task)))
        ended = subprocess.run([sys.executable, "-m", "flux_tools.bench.load", str(asked), str(answered)], check=False)
        if ended.returncode:
            raise LoadFailed(f"the load generator ended with exit status {ended.returncode}")
        answer: dict[str, Any] = json.loads(answered.read_text())
        return answer


class LoadFailed(Exception):
    """The load generator could not do its work; what it said is on this process's standard error."""


def described(cell: Cell) -> str:
    load = f"c={cell.concurrency}" if cell.mode == "closed" else f"{cell.rate_per_s:.2f}/s"
    batch = "" if cell.batch is None else f", batches of {cell.batch}"
    head = f"round {cell.round or 'calibration'} {cell.workload} {cell.system} {load}{batch}: "
    times = latency([cell])
    if times is None:
        return head + f"all {len(cell.outcomes)} failed: {cell.outcomes[0].error}"
    worst = max((o.difference for o in cell.outcomes if o.difference is not None), default=None)
    tail = f"{times.failed} failed, " if times.failed else ""
    return head + f"{cell.images_per_s:.2f} images/s, p50 {times.p50_s:.2f} s, {tail}difference {worst}"


def say(text: str) -> None:
    print(text, flush=True)


def _plain(settings: BenchSettings) -> dict[str, Any]:
    """As JSON has it, without this machine's paths."""
    plain = {key: value for key, value in asdict(settings).items() if key != "folder"}
    return dict(json.loads(json.dumps(plain)))
