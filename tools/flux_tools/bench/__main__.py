"""`scripts/bench`: measure flux-triton and the alternatives, and write the results."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

from flux_serving.launch.processes import end_on_signals
from flux_tools.bench.checkpoint import FOLDER, ROOT
from flux_tools.bench.measure import BenchRun, BenchSettings
from flux_tools.bench.options import read_options
from flux_tools.bench.plan import Workload, WorkloadKind
from flux_tools.bench.plot import draw
from flux_tools.bench.report import sections
from flux_tools.bench.results import BenchResults, merged
from flux_tools.bench.workloads import WORKLOADS
from flux_tools.demo.asset import expand
from flux_tools.documents import replaced

PAGE = ROOT / "docs" / "performance.md"
IMAGE = ROOT / "docs" / "pictures" / "performance.png"

#: Load average above which other programs disturb the measurement.
QUIET_LOAD = 0.5


def chosen_workloads(options: argparse.Namespace) -> tuple[Workload, ...]:
    chosen = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        if name == "grid512":
            workload = replace(workload, kinds=(WorkloadKind(512, options.grid512_steps),))
        if options.quick:
            workload = replace(workload, concurrency=(1, 4), requests=2, requests_per_client=1, seconds=0.0)
        if options.concurrency:
            workload = replace(workload, concurrency=options.concurrency)
        if options.requests:
            workload = replace(workload, requests=options.requests)
        chosen.append(workload)
    return tuple(chosen)


def settings_of(options: argparse.Namespace) -> BenchSettings:
    quick = options.quick
    return BenchSettings(
        workloads=chosen_workloads(options),
        systems=tuple(options.systems),
        rounds=1 if quick else options.rounds,
        threads=options.threads,
        calibrate=not quick,
        open_share=options.open_share,
        long_jobs=min(3, options.long_jobs) if quick else options.long_jobs,
        long_steps=10 if quick else 50,
        ceiling_rows=(1, 4) if quick else (1, 8, 16),
        folder=options.output.resolve(),
    )


def write(results: BenchResults, options: argparse.Namespace) -> None:
    for name, text in sections(results).items():
        print(f"\n## {name}\n\n{text}")
    draw(results, IMAGE if options.docs else options.output / "performance.png")
    if options.docs:
        PAGE.write_text(replaced(PAGE.read_text(), sections(results)))


def main() -> int:
    options = read_options()
    if options.render:
        try:
            parts = [BenchResults.load(path) for path in options.render]
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"scripts/bench: --render: cannot read results: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        write(merged(parts), options)
        return 0
    # Child processes inherit these, so all systems use the same number of threads.
    os.environ |= {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        print(f"scripts/bench: the machine is busy (load average {load:.1f}), expect noisy ratios", file=sys.stderr)
    end_on_signals()
    expand(FOLDER)
    results = BenchRun(settings_of(options)).run()
    write(results, options)
    print(f"\nresults: {options.output / 'bench.json'}")
    failed = sum(outcome.error is not None for cell in results.cells for outcome in cell.outcomes)
    return 1 if failed or results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
