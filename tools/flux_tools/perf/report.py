"""Renders results as the tables of docs/perf-analyzer.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flux_tools.documents import table
from flux_tools.perf.cases import BASE, GRPC, SEEN
from flux_tools.perf.runs import Measured, PerfResults

#: Titles of the sections in report.md.
TITLES = {
    "about": "What was measured",
    "overhead": "The ensemble and `flux_base` alone",
    "runs": "All interfaces",
    "shares": "Where the time of a request goes: means, in milliseconds",
    "errors": "Failed requests",
}


def sections(results: PerfResults) -> dict[str, str]:
    """Return every section, by the name of its marker."""
    return {
        "about": table(["", ""], [[key, value] for key, value in results.about.items()]),
        "overhead": overhead_table(results.turns),
        "runs": runs_table(results.runs),
        "shares": shares_table((*results.runs, *_of(results.turns, SEEN.name)[-1:])),
        "errors": errors(results),
    }


def runs_table(runs: Sequence[Measured]) -> str:
    head = ["run", "load", "requests", "failed", "images/s", "p50, ms", "p90, ms", "p99, ms", "first response, p50, ms"]
    return table([*head, "cache misses", "cache hits"], [_run(run) for run in runs])


def _run(run: Measured) -> list[str]:
    start = [run.name, run.load, str(run.asked), str(run.failed)]
    cache = [str(run.inside.cache_misses), str(run.inside.cache_hits)]
    if (summary := run.summary) is None:
        return [*start, *["–"] * 5, *cache]
    latencies = [_ms(latency) for latency in (summary.p50_s, summary.p90_s, summary.p99_s)]
    first = "–" if summary.first_s is None else _ms(summary.first_s)
    return [*start, f"{summary.images_per_s:.2f}", *latencies, first, *cache]


def shares_table(runs: Sequence[Measured]) -> str:
    """Return a table of the mean milliseconds of a request in each model, with their share of the latency."""
    head = ["run", "load", "latency", "`flux_prior_redux`", "engine: queue", "denoising", "decoding", "`image_encode`"]
    rows = []
    for run in runs:
        if run.summary is None:
            continue
        latency, inside = run.summary.mean_s, run.inside
        places = [inside.prior_s, inside.queue_s, inside.denoise_s, inside.decode_s, inside.encode_s]
        rows.append(
            [
                run.name,
                run.load,
                _ms(latency),
                *(f"{_ms(place)} ({100 * place / latency:.0f} %)" for place in (*places, latency - inside.models_s)),
            ]
        )
    return table([*head, "other"], rows)


@dataclass(frozen=True)
class Overhead:
    """Overhead of the ensemble over `flux_base` alone in each round: seconds, and as a share of `flux_base`'s time."""

    seconds: tuple[float, ...]
    shares: tuple[float, ...]

    def __str__(self) -> str:
        low, high = _ms(min(self.seconds)), _ms(max(self.seconds))
        return f"{_ms(median(self.seconds))} ms, {100 * median(self.shares):.0f} % ({low} to {high} ms)"


def overhead(turns: Sequence[Measured], name: str) -> Overhead | None:
    """Compare the p50 of a run with that of `flux_base` in the same round. Return None if no round has both."""
    base = {run.round: _p50(run) for run in _of(turns, BASE.name)}
    pairs = [(_p50(run), base[run.round]) for run in _of(turns, name) if run.round in base]
    if not pairs:
        return None
    return Overhead(tuple(ours - alone for ours, alone in pairs), tuple(ours / alone - 1 for ours, alone in pairs))


def overhead_table(turns: Sequence[Measured]) -> str:
    """Return a table of the three runs that take turns, with medians over the rounds.

    The columns are p50, overhead over `flux_base`, and the time in `flux_prior_redux` and `image_encode`.
    """
    rows = []
    for name in (BASE.name, SEEN.name, GRPC.name):
        if found := _of(turns, name):
            misses, hits = (sum(getattr(run.inside, kind) for run in found) for kind in ("cache_misses", "cache_hits"))
            beyond = None if name == BASE.name else overhead(turns, name)
            times = [_p50(run) for run in found]
            spread = f"{_ms(median(times))} ({_ms(min(times))} to {_ms(max(times))})"
            inside = [_ms(median(getattr(run.inside, model) for run in found)) for model in ("prior_s", "encode_s")]
            rows.append([name, str(len(found)), spread, str(beyond or "–"), *inside, f"{misses} / {hits}"])
    head = [
        "concurrency 1",
        "rounds",
        "p50, ms",
        "more than `flux_base`",
        "`flux_prior_redux`, ms",
        "`image_encode`, ms",
    ]
    return table([*head, "cache misses / hits"], rows)


def errors(results: PerfResults) -> str:
    """Return a line for each run that perf_analyzer aborted or that has failed requests."""
    bad = [run for run in (*results.runs, *results.turns) if run.error or run.failed]
    if not bad:
        return f"None in {sum(run.asked for run in (*results.runs, *results.turns))} requests."
    return "\n".join(f"- {run.name}, {run.load}: {run.failed} failed. {run.error}".rstrip() for run in bad)


def _of(runs: Sequence[Measured], name: str) -> list[Measured]:
    return [run for run in runs if run.name == name and run.summary]


def _p50(run: Measured) -> float:
    assert run.summary is not None, "_of leaves out runs without a summary"
    return run.summary.p50_s


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if abs(seconds) < 0.1 else f"{1000 * seconds:.0f}"
