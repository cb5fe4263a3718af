"""Renders results as the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from flux_tools.bench.engine_metrics import SHARES, rows_per_step, share_of
from flux_tools.bench.figures import LOOP, OURS, Spread, agreement, best_of, closed, latency, opened, ratio, throughput
from flux_tools.bench.plan import DEFAULT_MODE, PROMPT, STRENGTH, WorkloadKind
from flux_tools.bench.results import BenchResults, Cell
from flux_tools.bench.systems import SYSTEMS
from flux_tools.documents import table


def sections(results: BenchResults) -> dict[str, str]:
    """Return every section, by the name of its marker."""
    return {
        "image": "![Throughput by concurrency, and slowdown of a short job](pictures/performance.png)",
        "machine": machine(results),
        "throughput": per_workload(results, _throughput, is_described=True),
        "ratios": per_workload(results, _ratios),
        "latency": per_workload(results, _latency),
        "open": open_loops(results),
        "fairness": fairness(results),
        "time": where_the_time_goes(results),
        "ceiling": ceiling(results),
        "batching": batching(results),
        "agreement": agreements(results),
    }


def machine(results: BenchResults) -> str:
    facts = [[key, value] for key, value in results.machine.items()]
    packages = [[key, value] for key, value in results.versions.items()]
    names = [workload["name"] for workload in results.options["workloads"]]
    rounds = {name: len({cell.round for cell in results.cells if cell.workload == name}) for name in names}
    counted = ", ".join(f"{count} of {name}" for name, count in rounds.items())
    return table(["", ""], [*facts, *packages, ["rounds", counted]])


def per_workload(
    results: BenchResults, part: Callable[[BenchResults, str, list[int]], str], *, is_described: bool = False
) -> str:
    """Return a table for each workload. is_described: whether its title has the kinds of the workload."""
    parts = []
    for workload in results.options["workloads"]:
        title = f"**{workload['name']}**"
        parts.append(f"{title}: {kinds(workload['kinds'])}\n" if is_described else f"{title}\n")
        parts.append(part(results, workload["name"], workload["concurrency"]) + "\n")
    return "\n".join(parts)


def kinds(values: Sequence[Sequence[Any]]) -> str:
    """Return a text such as `64x64 with 20 steps`; with modes other than redux, by mode with their inputs.

    values: the fields of each `WorkloadKind`; older results have no modes.
    """
    by_mode: dict[str, list[str]] = {}
    for side, steps, mode in (WorkloadKind(*kind) for kind in values):
        by_mode.setdefault(mode, []).append(f"{side}x{side} with {steps} steps")
    if by_mode.keys() <= {DEFAULT_MODE}:
        return "; ".join(*by_mode.values())
    text = "; ".join(f"{mode} {', '.join(sizes)}" for mode, sizes in by_mode.items())
    inputs = f"redux is guided by an image, the others by the prompt `{PROMPT}`; img2img has a strength of {STRENGTH:g}"
    return f"{text}. {inputs}"


def systems(results: BenchResults) -> list[str]:
    """Return the systems that were measured, in the order of SYSTEMS."""
    measured = {cell.system for cell in results.cells}
    return [name for name in SYSTEMS if name in measured]


def alternatives(results: BenchResults) -> list[str]:
    return [name for name in systems(results) if SYSTEMS[name].alternative]


def _by_concurrency(
    results: BenchResults, workload: str, concurrency: Sequence[int], text: Callable[[dict[int, Cell], int, str], str]
) -> str:
    rows = []
    for name in systems(results):
        loads = [closed(results.cells, workload, name, clients) for clients in concurrency]
        if any(loads):
            rows.append([SYSTEMS[name].label, *(text(*pair, name) for pair in zip(loads, concurrency, strict=True))])
    return table(["concurrency", *map(str, concurrency)], rows)


def _throughput(results: BenchResults, workload: str, concurrency: list[int]) -> str:
    def text(by_round: dict[int, Cell], _clients: int, _name: str) -> str:
        return f"{median(throughput(by_round).values()):.2f}" if by_round else "–"

    return _by_concurrency(results, workload, concurrency, text)


def _latency(results: BenchResults, workload: str, concurrency: list[int]) -> str:
    def text(by_round: dict[int, Cell], clients: int, name: str) -> str:
        times = latency(by_round.values())
        if times is None or (name == LOOP and clients > 1):
            return "–"
        return f"{times.p50_s:.2f} / {times.p95_s:.2f} / {times.p99_s:.2f}"

    return _by_concurrency(results, workload, concurrency, text)


def _ratios(results: BenchResults, workload: str, concurrency: list[int]) -> str:
    others = alternatives(results)
    rows: list[list[str]] = [[SYSTEMS[name].label] for name in others] + [["**best alternative**"]]
    for clients in concurrency:
        ours = throughput(closed(results.cells, workload, OURS, clients))
        theirs = [throughput(closed(results.cells, workload, name, clients)) for name in others]
        for row, other in zip(rows, [*theirs, best_of(theirs)], strict=True):
            row.append(spread_text(ratio(ours, other)))
    return table(["concurrency", *map(str, concurrency)], rows)


def spread_text(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.greatest:
        return f"{spread.median:.2f}"
    return f"{spread.median:.2f} ({spread.least:.2f} to {spread.greatest:.2f})"


def open_loops(results: BenchResults) -> str:
    parts = []
    for workload in (w["name"] for w in results.options["workloads"]):
        rows = []
        rates: set[float] = set()
        for name in systems(results):
            by_round = opened(results.cells, workload, name)
            times = latency(by_round.values())
            if not by_round:
                continue
            rates |= {cell.rate_per_s or 0.0 for cell in by_round.values()}
            asked = sum(len(cell.outcomes) for cell in by_round.values())
            failed = str(times.failed if times else asked)
            seconds = [f"{t:.2f}" for t in (times.p50_s, times.p95_s, times.p99_s)] if times else ["–"] * 3
            done = median(throughput(by_round).values())
            rows.append([SYSTEMS[name].label, *seconds, f"{done:.2f}", failed, str(asked)])
        if rows:
            parts.append(f"**{workload}**: {max(rates):.2f} requests/s\n")
            head = ["", "p50, s", "p95, s", "p99, s", "images/s", "failed", "requests"]
            parts.append(table(head, rows) + "\n")
    return "\n".join(parts) or "Not measured."


def fairness(results: BenchResults) -> str:
    if not results.fairness:
        return "Not measured."
    rows = []
    for name in SYSTEMS:
        ones = [one for one in results.fairness if one.system == name and not one.errors]
        if ones:
            times = Spread.of([one.beside_s / one.solo_s for one in ones])
            solo, beside = median(one.solo_s for one in ones), median(one.beside_s for one in ones)
            rows.append([SYSTEMS[name].label, f"{solo:.2f}", f"{beside:.2f}", spread_text(times)])
    return table(["", "alone, s", "with the long jobs, s", "slowdown"], rows)


def where_the_time_goes(results: BenchResults) -> str:
    """Return the table for flux-triton under full load: the first workload at its highest concurrency, all rounds."""
    workload = results.options["workloads"][0]
    cells = closed(results.cells, workload["name"], OURS, max(workload["concurrency"])).values()
    if not cells:
        return "Not measured."
    wall = sum(cell.wall_s for cell in cells)
    keys = set().union(*(cell.metrics for cell in cells))
    total = {key: sum(cell.metrics.get(key, 0.0) for cell in cells) for key in keys}
    rows = [[share.label, share_of(total, share, wall)] for share in SHARES]
    rows.append(["mean images per step", rows_per_step(total)])
    return table([f"`{workload['name']}`, concurrency {max(workload['concurrency'])}", "of the wall time"], rows)


def ceiling(results: BenchResults) -> str:
    if not results.ceiling:
        return "Not measured."
    rows = []
    kinds = sorted({(one.side, one.has_prompt, one.rows) for one in results.ceiling})
    for side, has_prompt, count in kinds:
        found = {
            code: {
                one.round: one.step_s
                for one in results.ceiling
                if (one.side, one.has_prompt, one.rows, one.code) == (side, has_prompt, count, code)
            }
            for code in ("ours", "stock")
        }
        ours, stock = found["ours"], found["stock"]
        milliseconds = [f"{1000 * median(steps.values()):.0f}" if steps else "–" for steps in (ours, stock)]
        faster = spread_text(ratio(stock, ours))
        rows.append([f"{side}x{side}", "512 tokens" if has_prompt else "none", str(count), *milliseconds, faster])
    return table(["size", "prompt", "rows", "ours, ms per step", "stock, ms per step", "stock / ours"], rows)


def batching(results: BenchResults) -> str:
    tried = [cell for cell in results.calibration if cell.batch is not None and cell.answered]
    if not tried:
        return "Not calibrated: the maximum batch size is 8."
    rows = []
    for name, workload in dict.fromkeys((cell.system, cell.workload) for cell in tried):
        cells = [cell for cell in tried if (cell.system, cell.workload) == (name, workload)]
        chosen = max(cells, key=lambda cell: cell.images_per_s)
        found = ", ".join(f"{cell.batch}: {cell.images_per_s:.2f}" for cell in cells)
        rows.append([SYSTEMS[name].label, workload, str(chosen.concurrency), found, str(chosen.batch)])
    return table(["", "workload", "concurrency", "images/s by maximum batch size", "chosen"], rows)


def agreements(results: BenchResults) -> str:
    rows = []
    for name in systems(results):
        found = agreement(cell for cell in results.cells if cell.system == name)
        worst = "–" if found.worst is None else str(found.worst)
        rows.append([SYSTEMS[name].label, str(found.asked), str(found.failed), str(found.compared), worst])
    lost = "".join(f"\n- not measured: {failure}" for failure in results.failures)
    head = ["", "requests", "failed", "images compared", "largest difference, 8-bit levels"]
    return table(head, rows) + ("\n" + lost if lost else "")
