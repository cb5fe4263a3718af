"""Draws the image of docs/performance.md: throughput by concurrency, and the slowdown of the short job."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import FixedLocator, NullLocator

from flux_tools.bench.figures import LOOP, closed, throughput
from flux_tools.bench.report import kinds, systems
from flux_tools.bench.results import BenchResults
from flux_tools.bench.systems import SYSTEMS

#: Colour and line of each system. The colours are from the Okabe-Ito palette, which is safe for colour-blind readers.
STYLES = {
    "ours-grpc": ("#0072B2", "-"),
    "ours-http": ("#56B4E9", "--"),
    "litserve": ("#D55E00", "-"),
    "pytriton": ("#009E73", "-"),
    "fastapi": ("#E69F00", "-"),
    "loop": ("#666666", ":"),
}


def draw(results: BenchResults, path: Path) -> None:
    workloads = results.options["workloads"]
    panels = len(workloads) + bool(results.fairness)
    columns = 1 if panels == 1 else 2
    rows = math.ceil(panels / columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(5.2 * columns, 3.6 * rows), layout="constrained", squeeze=False
    )
    axes = grid.ravel()
    for axis in axes[panels:]:
        axis.set_visible(False)
    for axis, workload in zip(axes, workloads, strict=False):
        _throughput(axis, results, workload)
    if results.fairness:
        _fairness(axes[panels - 1], results)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _throughput(axis: Any, results: BenchResults, workload: dict[str, Any]) -> None:
    concurrency = workload["concurrency"]
    for name, (colour, line) in STYLES.items():
        if name not in systems(results):
            continue
        points = [
            (clients, median(throughput(by_round).values()))
            for clients in concurrency
            if (by_round := closed(results.cells, workload["name"], name, clients))
        ]
        if not points:
            continue
        marker = "" if name == LOOP else "o"
        axis.plot(
            *zip(*points, strict=True), line, color=colour, marker=marker, markersize=4, label=SYSTEMS[name].label
        )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(concurrency))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticklabels([str(clients) for clients in concurrency])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("clients")
    axis.set_ylabel("images per second")
    size = kinds(workload["kinds"]) if len(workload["kinds"]) == 1 else "modes, sizes and step counts mixed"
    axis.set_title(f"{workload['name']}: {size}", fontsize=10)
    _plain(axis)


def _fairness(axis: Any, results: BenchResults) -> None:
    names = [name for name in STYLES if any(one.system == name and not one.errors for one in results.fairness)]
    times = [
        median(one.beside_s / one.solo_s for one in results.fairness if one.system == name and not one.errors)
        for name in names
    ]
    bars = axis.barh([SYSTEMS[n].label for n in names], times, color=[STYLES[n][0] for n in names], height=0.6)
    axis.bar_label(bars, [f"{value:.1f}" for value in times], padding=3)
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.set_xlabel("slowdown: latency / time alone")
    long, short = results.options["long_jobs"], results.options["short_steps"]
    title = f"a {short}-step job with {long} jobs of {results.options['long_steps']} steps"
    axis.set_title(title, fontsize=10)
    _plain(axis)
    axis.grid(visible=False, axis="y")


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
