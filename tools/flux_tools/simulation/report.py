"""Renders docs/scaling.md and its image from the results of the studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from flux_tools.documents import table
from flux_tools.simulation import capacity, figures, instances, servers
from flux_tools.simulation.machine import DEMO_CPU, H100_COMPILED, H100_EAGER, H100_FP8, image_tokens
from flux_tools.simulation.policies import POLICIES, OneByOne, StepBatching, WholeRequests
from flux_tools.simulation.rounding import number
from flux_tools.simulation.study import (
    FLEET_TIMES,
    HEADLINE_GPUS,
    HEADLINE_LOAD,
    PROMISES,
    RATES,
    ROUTING_TIMES,
    SEED,
    SITES,
)
from flux_tools.simulation.workload import Mix

Row = dict[str, Any]

TEMPLATE = Path(__file__).with_name("scaling.template.md")

NAMES = [policy.name for policy in POLICIES]
COLOURS = dict(zip(NAMES, ("#8a8f98", "#e08a1e", "#1f6feb"), strict=True))


def _seconds(key: str) -> Callable[[Row], str]:
    return lambda row: f"{number(row[key])} s"


def _times(key: str) -> Callable[[Row], str]:
    return lambda row: f"{number(row[key])} x"


#: Rows and columns of the tables, by label.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "p50 latency": _seconds("p50"),
    "p99 latency": _seconds("p99"),
    "p99 latency, interactive": _seconds("p99_interactive"),
    "p50 slowdown": _times("p50_slowdown"),
    "p99 slowdown": _times("p99_slowdown"),
    "max slowdown, background": _times("max_slowdown_background"),
    "images/s": lambda row: number(row["throughput"]),
    "rejected": lambda row: f"{100 * row['refused_share']:.1f} %",
}
WAITS = ("p50 latency", "p99 latency", "p99 latency, interactive", "p99 slowdown", "max slowdown, background")


def draw(results: Row, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (latency, slowdown, refused) = plt.subplots(1, 3, figsize=(13, 4.3), layout="constrained")
    for name in NAMES:
        rows = [row for row in results["sweep"] if row["policy"] == name]
        loads = [row["load"] for row in rows]
        style: Row = {"color": COLOURS[name], "linewidth": 2, "label": name}
        latency.plot(loads, [row["p50"] for row in rows], **style)
        slowdown.plot(loads, [row["p99_slowdown"] for row in rows], **style)
        refused.plot(loads, [100 * row["refused_share"] for row in rows], **style)
    for axes, title, unit in (
        (latency, "Median latency", "seconds"),
        (slowdown, "p99 slowdown", "latency / time alone"),
        (refused, "Rejected", "% of requests"),
    ):
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_ylabel(unit)
        axes.set_xlabel("load (1 = most that one by one can do)")
        axes.axvline(1, color="#c9ccd1", linewidth=1, zorder=0)
        axes.grid(axis="y", color="#eceef0", zorder=0)
        axes.set_axisbelow(True)
    for axes, ticks in ((latency, (5, 10, 20, 50, 100, 200)), (slowdown, (1, 3, 10, 30, 100, 300, 1000, 3000))):
        axes.set_yscale("log")
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    slowdown.set_ylim(bottom=1)
    refused.set_yticks(range(0, 30, 5))
    refused.set_ylim(-1, 26)
    latency.legend(frameon=False, loc="upper left")
    figure.suptitle(
        "Simulated: one H100, FLUX.1-dev Redux, 512x512 to 1024x1024, 4 to 50 steps, up to 64 images waiting",
        fontsize=10,
        color="#555b63",
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(results: Row) -> str:
    """Return the page: scaling.template.md with the numbers of these results."""
    mean_solo = Mix().mean_solo_seconds(H100_EAGER)
    head = {row["policy"]: row for row in results["headline"]}
    ours = head[StepBatching.name]
    return Template(TEMPLATE.read_text()).substitute(
        seed=SEED,
        requests=f"{results['requests']:,}",
        one_by_one=OneByOne.name,
        whole_requests=WholeRequests.name,
        steps=StepBatching.name,
        delay=round(1000 * WholeRequests.delay_seconds),
        mean_solo=number(mean_solo),
        headline_requests=f"{results['headline_requests']:,}",
        headline_gpus=HEADLINE_GPUS,
        headline_load=HEADLINE_LOAD,
        headline_rate=number(HEADLINE_LOAD * HEADLINE_GPUS / mean_solo),
        headline_steps=f"{ours['steps']:,}",
        headline_minutes=number(ours["wall_seconds"] / 60),
        step_us=round(1e6 * ours["wall_seconds"] / ours["steps"]),
        headline=table(["", *head], [[label, *map(show, head.values())] for label, show in COLUMNS.items()]),
        overload=_overload(results["overload"]),
        fleet_requests=f"{FLEET_TIMES * results['requests']:,}",
        fleet=table(
            ["target", "policy", *(f"{rate:g}/s" for rate in RATES)],
            [
                [promise, name, *(row[promise] for row in results["fleet"] if row["policy"] == name)]
                for promise in PROMISES
                for name in NAMES
            ],
        ),
        routing_requests=f"{ROUTING_TIMES * results['requests']:,}",
        routing=table(
            ["", *(row["route"] for row in results["routing"])],
            [[label, *map(COLUMNS[label], results["routing"])] for label in WAITS],
        ),
        instances=instances.section(results["instances"]),
        servers=servers.section(results["servers"], results["requests"]),
        capacity=capacity.section(results["capacity"], results["requests"]),
        patience=_parameter_table(results["patience"], "patience"),
        queue=_parameter_table(results["queue"], "max_jobs"),
        machines=_machines(),
        context_tokens=figures.CONTEXT_TOKENS,
        collapse_512=_collapse(512),
        collapse_1024=_collapse(1024),
        compiled=number(H100_COMPILED.overhead / H100_EAGER.overhead),
        fp8=number(H100_FP8.overhead / H100_EAGER.overhead),
        demo_fit=_demo_fit(),
    )


def with_section(text: str, section: str) -> str:
    """Return the page with one section replaced.

    section: its first line is the title of the section to replace.
    Raises ValueError: the page has no section with this title.
    """
    title = section.partition("\n")[0]
    before, found, after = text.partition(f"{title}\n")
    if not found:
        raise ValueError(f"the page has no section {title!r}")
    return before + section + "\n" + after[after.index("\n## ") + 1 :]


def _overload(rows: Sequence[Row]) -> str:
    return table(
        ["", *NAMES],
        [
            [site, *(f"{number(row['load'])} ({number(row['rate'])}/s)" for row in rows if row["site"] == site)]
            for site in SITES
        ],
    )


def _parameter_table(rows: Sequence[Row], name: str) -> str:
    labels = [*WAITS, "rejected"]
    return table(
        ["`MAX_WAITING`" if name == "max_jobs" else name, "load", *labels],
        [[_parameter_value(row[name]), row["load"], *(COLUMNS[label](row) for label in labels)] for row in rows],
    )


def _machines() -> str:
    sizes = ((512, 512), (1024, 576), (1024, 1024))
    sources = {
        H100_EAGER: "two published timings",
        H100_COMPILED: "one published timing, scaled",
        H100_FP8: "one published timing, scaled",
    }
    return table(
        ["machine", "overhead", *(f"row of {width}x{height}" for width, height in sizes), "source"],
        [
            [
                machine.name,
                f"{1000 * machine.overhead:.0f} ms",
                *(
                    f"{1000 * machine.row_seconds(image_tokens(*size) + figures.CONTEXT_TOKENS):.0f} ms"
                    for size in sizes
                ),
                source,
            ]
            for machine, source in sources.items()
        ],
    )


def _parameter_value(value: int) -> str:
    return "unlimited" if value >= 1_000_000 else str(value)


def _collapse(side: int) -> str:
    plain = H100_EAGER.step_seconds([image_tokens(side, side) + figures.PLAIN_CONTEXT_TOKENS])
    return f"{plain / H100_EAGER.step_seconds([image_tokens(side, side) + figures.CONTEXT_TOKENS]):.2f}"


def _demo_fit() -> str:
    steps = [f"{1000 * DEMO_CPU.step_seconds([t.tokens] * t.rows):.0f}" for t in figures.DEMO_CPU_64]
    return f"{', '.join(steps[:-1])} and {steps[-1]} ms"
