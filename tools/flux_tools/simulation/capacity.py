"""Images per GPU-hour at which all latency targets are met, and the cost of an image: a section of docs/scaling.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from flux_tools.documents import table
from flux_tools.simulation.machine import H100_COMPILED, H100_EAGER, H100_FP8, Machine
from flux_tools.simulation.merit import Merit
from flux_tools.simulation.policies import StepBatching
from flux_tools.simulation.rounding import number
from flux_tools.simulation.simulation import Route, least_loaded, round_robin
from flux_tools.simulation.study import H100, PROMISES, REFUSED_SHARE, Site
from flux_tools.simulation.workload import SMALL, Mix

Row = dict[str, Any]

TITLE = "## Throughput of a GPU and cost of an image"
TEMPLATE = Path(__file__).with_name("capacity.template.md")

MACHINES = (H100_EAGER, H100_COMPILED, H100_FP8)
MIXED = "mixed sizes"
MIXES = {"512x512": SMALL, "1024x1024": Mix(sizes=(((1024, 1024), 1.0),)), MIXED: Mix()}
LONGEST = max(MIXES[MIXED].kinds()[0], key=lambda kind: kind.solo_seconds(H100_EAGER))
#: Every mix runs on GPUS; mixed sizes also on FEW_GPUS, because fewer GPUs need more headroom.
GPUS, FEW_GPUS = 8, (1, 2)
ROUTES: dict[str, Callable[[], Route]] = {"least loaded": lambda: least_loaded, "in turn": round_robin}
#: Bounds of the search for the safe load, in percent.
LEAST, MOST = 10, 130
#: Example: images per day, images of the busiest hour divided by those of the mean hour, spare GPUs.
DAILY, PEAK, SPARE = 100_000, 3, 1


def capacity(requests: int) -> Iterator[Row]:
    """Yield the highest load, in whole percent, at which all targets are met, for each fleet and machine."""
    fleets = [(gpus, MIXED, "least loaded") for gpus in FEW_GPUS]
    fleets += [(GPUS, mix, "least loaded") for mix in MIXES]
    fleets += [(GPUS, MIXED, "in turn")]
    for gpus, mix, route in fleets:
        tries = _Tries(replace(H100, mix=MIXES[mix], gpus=gpus, route=ROUTES[route]), requests)
        for machine in MACHINES:
            load = tries.safe_percent(machine) / 100
            merit = tries.merit(tries.safe_percent(machine), machine)
            yield {
                "gpus": gpus,
                "mix": mix,
                "route": route,
                "machine": machine.name,
                "load": load,
                "hourly": 3600 * load / MIXES[mix].mean_solo_seconds(machine),
                "busy": merit.busy_share,
                "p99_foreground": merit.p99_foreground,
                "p99": merit.p99,
            }


class _Tries:
    """Runs of one site at different loads. The machines differ only in speed, so one run serves for all of them."""

    def __init__(self, site: Site, requests: int) -> None:
        self._eager = cache(lambda percent: site.run(StepBatching, percent / 100 * site.capacity(), requests))

    def merit(self, percent: int, machine: Machine) -> Merit:
        return self._eager(percent).slowed(machine.overhead / H100_EAGER.overhead)

    def safe_percent(self, machine: Machine) -> int:
        return highest_safe_percent(lambda percent: self.merit(percent, machine))


def highest_safe_percent(merit_at: Callable[[int], Merit]) -> int:
    """Return the highest load, in percent, that meets all targets. merit_at: returns the merit of a run at a load."""
    good, bad = LEAST, MOST
    while bad - good > 1:
        percent = (good + bad) // 2
        merit = merit_at(percent)
        kept = merit.refused_share <= REFUSED_SHARE and all(promise(merit) for promise in PROMISES.values())
        good, bad = (percent, bad) if kept else (good, percent)
    return good


def cost_per_thousand(price: float, hourly: float) -> float:
    """price: of a GPU-hour. hourly: images per GPU-hour."""
    return 1000 * price / hourly


def gpus_for(daily: float, peak: float, hourly: float, spare: int = 0) -> int:
    """Return the number of GPUs for a load.

    daily: images per day. peak: images of the busiest hour divided by those of the mean hour. hourly: images per
    GPU-hour at the safe load.
    """
    return math.ceil(daily / 24 * peak / hourly) + spare


def section(rows: Sequence[Row], requests: int) -> str:
    """Return the section of docs/scaling.md, including its title. rows: from `capacity`."""
    usual = [row for row in rows if row["gpus"] == GPUS and row["route"] == "least loaded"]
    by_machine = [row for machine in MACHINES for row in usual if row["machine"] == machine.name]
    example = next(row for row in by_machine if row["mix"] == MIXED)
    gpus = gpus_for(DAILY, PEAK, example["hourly"])
    mean_hourly = DAILY / 24 / (gpus + SPARE)
    return Template(TEMPLATE.read_text()).substitute(
        title=TITLE,
        requests=f"{requests:,}",
        gpus=GPUS,
        safe=_safe(by_machine),
        fleets=_fleets([row for row in rows if row["mix"] == MIXED]),
        longest=number(LONGEST.solo_seconds(H100_EAGER)),
        example_machine=example["machine"],
        hourly=number(example["hourly"]),
        daily=f"{DAILY:,}",
        peak=PEAK,
        peak_hourly=f"{DAILY / 24 * PEAK:,.0f}",
        example_gpus=gpus,
        spare=SPARE,
        with_spare=gpus + SPARE,
        mean_hourly=number(mean_hourly),
        example_share=f"{100 * mean_hourly / _never_idle(example):.0f}",
        example_cost=number(cost_per_thousand(1, mean_hourly)),
        example_cost_safe=number(cost_per_thousand(1, example["hourly"])),
        example_times=number(example["hourly"] / mean_hourly),
    )


def _never_idle(row: Row) -> float:
    """Return the images per hour of a GPU that is never idle, with the same steps as at this load."""
    return float(row["hourly"] / row["busy"])


def _safe(rows: Sequence[Row]) -> str:
    return table(
        [
            "machine",
            "sizes",
            "safe load",
            "images/GPU-hour",
            "idle",
            "p99, all but background",
            "p99 of all",
            "cost of 1000 images at price 1",
            "of which idle",
        ],
        [
            [
                row["machine"],
                row["mix"],
                f"{row['load']:.2f}",
                number(row["hourly"]),
                f"{100 * (1 - row['busy']):.0f} %",
                f"{number(row['p99_foreground'])} s",
                f"{number(row['p99'])} s",
                number(cost_per_thousand(1, row["hourly"])),
                number(cost_per_thousand(1, row["hourly"]) * (1 - row["busy"])),
            ]
            for row in rows
        ],
    )


def _fleets(rows: Sequence[Row]) -> str:
    """Return a table with one column for each number of GPUs and route."""
    columns: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row['gpus']} GPU{'s' * (row['gpus'] > 1)}{', in turn' * (row['route'] == 'in turn')}"
        columns.setdefault(name, []).append(f"{row['load']:.2f} ({number(row['hourly'])})")
    names = [machine.name for machine in MACHINES]
    return table([MIXED, *columns], [[name, *cells] for name, *cells in zip(names, *columns.values(), strict=True)])
