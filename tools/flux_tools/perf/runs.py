"""Runs perf_analyzer for each case and collects the results."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flux_tools.metrics import growth
from flux_tools.perf import inputs
from flux_tools.perf.binary import Binary
from flux_tools.perf.cases import GRPC, OPEN_THREADS, TURNS, Case, Data, closed, opened
from flux_tools.perf.counters import Inside, inside, read_counters
from flux_tools.perf.export import Summary, printed, read_export, summed_up
from flux_tools.perf.inputs import Work
from flux_tools.perf.servers import Server

#: Timeout of a run in seconds: to start, and for each request.
START_S, REQUEST_S = 300.0, 30.0
#: Files that a run writes into its folder.
LEFT = ("[0-9]*-flux_*.export.json", "[0-9]*-flux_*.txt", "images.json", "every-input.json", "contexts.json")


@dataclass(frozen=True)
class Measured:
    """Result of a run. asked: number of requests. summary: None if perf_analyzer failed; error is then its output."""

    name: str
    load: str
    round: int
    asked: int
    summary: Summary | None
    inside: Inside
    error: str = ""

    @property
    def failed(self) -> int:
        """The failures counted by the server or the number of missing images, whichever is larger."""
        return max(self.inside.failed, self.asked - (self.summary.images if self.summary else 0))


@dataclass
class PerfResults:
    """Results of all runs. turns: the runs of the rounds in which the ensemble and `flux_base` take turns."""

    about: dict[str, str]
    runs: list[Measured] = field(default_factory=list)
    turns: list[Measured] = field(default_factory=list)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> PerfResults:
        raw = json.loads(file.read_text())
        return cls(raw["about"], *([_measured(one) for one in raw[part]] for part in ("runs", "turns")))


def _measured(raw: dict[str, Any]) -> Measured:
    summary = Summary(**raw["summary"]) if raw["summary"] else None
    return Measured(**{**raw, "summary": summary, "inside": Inside(**raw["inside"])})


class PerfRunner:
    """Runs perf_analyzer. folder: an existing folder for inputs, exports and perf_analyzer's output."""

    def __init__(self, binary: Binary, server: Server, folder: Path, count: int, work: Work) -> None:
        """count: requests per run, each with its own image; some cases send only half as many."""
        self.server = server
        self._binary, self._folder = binary, folder
        self._count, self._work = count, work
        # An incompressible PNG, plus room for its metadata.
        self._output_bytes = 3 * work.side**2 + 2**16
        # Makes the images new: a running server may have cached those of an earlier measurement.
        self._word = secrets.token_hex(4)
        self._number = 0
        self._last = folder / "images.json"
        # Contexts of FLUX.1's size take 16 MB and would be several times larger in the export.
        self._are_contexts_exported = True

    def all_ways(self) -> list[Measured]:
        """Run the closed loops, then the open ones at rates that the server can sustain."""
        server = self.server
        cases = closed(has_adapter=server.adapter is not None, has_http=server.http is not None)
        measured = [self.measure(case) for case in cases]
        busiest = next(one for one in reversed(measured) if one.name == GRPC.name)
        if busiest.summary:
            measured += [self.measure(case) for case in opened(busiest.summary.images_per_s)]
        return measured

    def turns(self, rounds: int) -> list[Measured]:
        """Run the ensemble with new images, with the same images again, and `flux_base`, in each round."""
        orders = (TURNS, (*TURNS[-1:], *TURNS[:-1]))
        return [replace(self.measure(case), round=number) for number in range(rounds) for case in orders[number % 2]]

    def warm_up(self) -> None:
        """Run each case once, because the memory-mapped weights are only read with the first images."""
        for case in TURNS:
            self.measure(case)

    def measure(self, case: Case) -> Measured:
        self._number += 1
        stem = f"{self._number:02}-{case.model}"
        data = self._data(case, stem)
        is_exported = not case.shared_memory and (case.data is not Data.CONTEXTS or self._are_contexts_exported)
        export = self._folder / f"{stem}.export.json" if is_exported else None
        url = self.server.grpc if case.protocol == "grpc" else str(self.server.http)
        asked = self._count // case.parts
        command = [
            str(self._binary.path),
            *case.arguments(url, data, asked, export, self._output_bytes, self.server.key),
        ]
        before = read_counters(self.server.metrics_url)
        output, error = self._run(command, self._folder / f"{stem}.txt", START_S + asked * REQUEST_S)
        # Triton counts a request just after its response.
        time.sleep(0.2)
        grown = growth(before, read_counters(self.server.metrics_url))
        summary = None
        if not error:
            summary = summed_up(read_export(export)) if export else printed(output, case.concurrency)
            # An open loop sends a few more.
            asked = max(asked, summary.requests)
        print(f"{case.name}, {case.load}: {f'{summary.images_per_s:.2f} images/s' if summary else error}", flush=True)
        return Measured(case.name, case.load, 0, asked, summary, inside(grown, case.model), error)

    def _data(self, case: Case, stem: str) -> Path:
        count, work, server, word = self._count, self._work, self.server, f"{self._word} {stem}"
        if case.data is Data.CONTEXTS:
            file = self._folder / "contexts.json"
            if not file.exists():
                contexts = inputs.of_contexts(count, self._word, work, server.grpc)
                self._are_contexts_exported = inputs.size_of(contexts[0]) <= inputs.LARGEST_EXPORTED
                inputs.write(file, contexts)
            return file
        if case.is_seen:
            return self._last
        if case.data is Data.EVERY_INPUT:
            return inputs.write(
                self._folder / "every-input.json", inputs.of_every_input(count, word, work, str(server.adapter))
            )
        # An open loop sends a few more requests than requested; their images must be new too.
        return inputs.write(self._last, inputs.of_images(count + (OPEN_THREADS if case.rate else 0), word, work))

    def _run(self, command: list[str], file: Path, timeout_s: float) -> tuple[str, str]:
        """Run the command and save its output in the file. Return the output and the error, empty on success."""
        try:
            ended = subprocess.run(
                command,
                env=self._binary.environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            return "", f"not finished after {timeout_s:g} s"
        output = ended.stdout + ended.stderr
        file.write_text(output)
        return output, f"exit status {ended.returncode}: {output.strip()[-300:]}" if ended.returncode else ""
