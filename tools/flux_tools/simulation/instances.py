"""Simulates how an instance is chosen, with the serving code: a section of docs/scaling.md and its image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from flux_serving.scheduling.placement import choose_instance
from flux_serving.scheduling.scheduler import Limits
from flux_tools.documents import table
from flux_tools.simulation.machine import DEMO_CPU
from flux_tools.simulation.merit import judge
from flux_tools.simulation.policies import OneQueue, StepBatching, job_left
from flux_tools.simulation.rounding import number
from flux_tools.simulation.simulation import Route, round_robin, simulate
from flux_tools.simulation.study import CPU_LIMITS, H100, SEED, Site
from flux_tools.simulation.workload import Mix, SimulatedRequest, arrivals

Row = dict[str, Any]

TITLE = "## Which instance gets a request"
TEMPLATE = Path(__file__).with_name("instances.template.md")

MIXED, SMALL = "mixed sizes", "small images of four shapes"
COUNTS = (2, 8, 64)
#: Maximum number of requests per point.
MOST_REQUESTS = 6_000
LOADS = (0.5, 0.7, 0.8, 0.9, 0.95)
#: Small images of four shapes. Their steps are mostly overhead, and images of different shapes cannot share a step.
SHAPES = Mix(sizes=tuple(((width, height), 0.25) for width in (64, 96) for height in (64, 96)), context_tokens=16 + 1)
SMALL_SITE = Site(DEMO_CPU, SHAPES, CPU_LIMITS)
SMALL_LOADS = (0.5, 1.0, 1.5, 2.0)
IN_TURN, AT_RANDOM, LEAST_WORK, OURS, IDEAL = "in turn", "at random", "least work", "this server", "ideal"
COLOURS = {IN_TURN: "#8a8f98", AT_RANDOM: "#c9ccd1", LEAST_WORK: "#e08a1e", OURS: "#1f6feb", IDEAL: "#2da44e"}


def at_random() -> Route:
    chance = random.Random(SEED)
    return lambda gpus, request: chance.randrange(len(gpus))


def least_work(gpus: Sequence[Any], request: SimulatedRequest) -> int:
    """Return the index of the GPU with the fewest tokens, summed over all remaining steps."""
    work = [sum(job.tokens * job.steps for job in gpu.backlog.jobs) for gpu in gpus]
    return work.index(min(work))


def placed(limits: Limits) -> Route:
    """Return a route that places requests as a server does: instances get requests in turn and choose for each."""
    turn = round_robin()

    def route(gpus: Sequence[Any], request: SimulatedRequest) -> int:
        own = turn(gpus, request)
        backlogs = {str(index): gpu.backlog for index, gpu in enumerate(gpus)}
        return int(choose_instance(str(own), backlogs, [job_left(request.kind)], limits))

    return route


ROUTES: dict[str, Callable[[Limits], Route]] = {
    IN_TURN: lambda limits: round_robin(),
    AT_RANDOM: lambda limits: at_random(),
    LEAST_WORK: lambda limits: least_work,
    OURS: placed,
}


def instances(requests: int) -> Iterator[Row]:
    """Yield the merit of each route, by site, number of instances and load. requests: for each instance."""
    for count in COUNTS:
        for load in LOADS:
            yield from _compared(MIXED, replace(H100, gpus=count), load, requests)
    for load in SMALL_LOADS:
        yield from _compared(SMALL, replace(SMALL_SITE, gpus=2), load, requests)


def _compared(name: str, site: Site, load: float, requests: int) -> Iterator[Row]:
    for route in (*ROUTES, IDEAL):
        merit = run_route(site, route, load, min(MOST_REQUESTS, requests * site.gpus))
        yield {"site": name, "gpus": site.gpus, "load": load, "route": route, **merit}


def run_route(site: Site, route: str, load: float, requests: int) -> Row:
    limits, count = site.limits, site.gpus
    shared = OneQueue(replace(limits, max_jobs=limits.max_jobs * count, max_tokens=limits.max_tokens * count))
    is_ideal = route == IDEAL
    gpus = [StepBatching(site.machine, limits, shared if is_ideal else None) for _ in range(count)]
    asked = arrivals(site.mix, load * site.capacity(), requests, SEED)
    outcome = simulate(asked, gpus, round_robin() if is_ideal else ROUTES[route](limits), is_ideal)
    return asdict(judge(outcome, site.machine, count))


def section(rows: Sequence[Row]) -> str:
    """Return the section of docs/scaling.md, including its title."""
    return Template(TEMPLATE.read_text()).substitute(
        title=TITLE,
        requests=f"{MOST_REQUESTS:,}",
        mixed=_compare([row for row in rows if row["site"] == MIXED], (0.5, 0.8, 0.95)),
        small=_compare([row for row in rows if row["site"] == SMALL], SMALL_LOADS),
    )


def _compare(rows: Sequence[Row], loads: Sequence[float]) -> str:
    """Return a table with the median latency, p99 latency and mean slowdown of each route."""
    lines = []
    for (gpus, load), group in groupby(rows, lambda row: (row["gpus"], row["load"])):
        if load in loads:
            cells = [f"{number(row['p50'])} / {number(row['p99'])} / {number(row['mean_slowdown'])}" for row in group]
            lines.append([gpus, load, *cells])
    return table(["GPUs", "load", *ROUTES, IDEAL], lines)


def draw_instances(rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    panels = [*((MIXED, count) for count in COUNTS), (SMALL, 2)]
    figure, all_axes = plt.subplots(1, len(panels), figsize=(14, 3.8), layout="constrained")
    for axes, (site, count) in zip(all_axes, panels, strict=True):
        for route in (*ROUTES, IDEAL):
            found = [row for row in rows if (row["site"], row["gpus"], row["route"]) == (site, count, route)]
            axes.plot(
                [row["load"] for row in found],
                [row["mean_slowdown"] for row in found],
                color=COLOURS[route],
                linewidth=2,
                label=route,
                linestyle="--" if route == IDEAL else "-",
            )
        axes.set_title(f"{count} GPUs, {site}", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("load")
        axes.grid(axis="y", color="#eceef0", zorder=0)
        axes.set_ylim(bottom=1)
    all_axes[0].set_ylabel("mean latency / time alone")
    all_axes[0].legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=110)
    plt.close(figure)
